package wire

import "fmt"

// Receipt is the payload of a signed receipt: what one invocation made of one input. In and
// Out are commitments, opened by a Result's Openings.
type Receipt struct {
	V     int    `cbor:"v"`
	Fn    []byte `cbor:"fn"`  // SHA-256 of the function's zip
	In    []byte `cbor:"in"`  // HMAC-SHA-256(Openings.In, SHA-256(input))
	Out   []byte `cbor:"out"` // HMAC-SHA-256(Openings.Out, SHA-256(output))
	Nonce []byte `cbor:"nonce"`
	Route string `cbor:"route"`
	ID    uint64 `cbor:"id"`
	Prev  []byte `cbor:"prev"` // SHA-256 of the previous receipt's payload, nil for the first
	Time  uint64 `cbor:"time"` // milliseconds since 1970, of the security module
	Doc   []byte `cbor:"doc"`  // SHA-256 of the session's attestation document
}

// Encode validates r and returns its encoding.
func (r *Receipt) Encode() ([]byte, error) {
	if err := r.validate(); err != nil {
		return nil, err
	}
	return Marshal(r)
}

// ParseReceipt decodes the payload of a receipt.
func ParseReceipt(data []byte) (*Receipt, error) {
	var r Receipt
	if err := Unmarshal(data, MaxReceipt, &r); err != nil {
		return nil, fmt.Errorf("reading receipt: %w", err)
	}
	return checked(&r)
}

func (r *Receipt) validate() error {
	return needs("receipt", r.V == 2 && hashes(r.Fn, r.In, r.Out, r.Nonce, r.Doc) && hashOrNull(r.Prev) &&
		r.Route != "" && r.Route[0] == '/' && len(r.Route) <= MaxRoute && r.ID != 0)
}

// Expect is what a caller demands of the function before it is called. Seq is a minimum.
type Expect struct {
	Fn   []byte  `cbor:"fn"`   // SHA-256 of the zip
	Acct []byte  `cbor:"acct"` // the account that signed it
	Seq  *uint64 `cbor:"seq"`
}
