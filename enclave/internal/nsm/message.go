package nsm

import (
	"fmt"
	"math"
	"time"

	"github.com/fxamacker/cbor/v2"
)

// The requests as serde writes them for aws-nitro-enclaves-nsm-api: a unit variant is its
// name, another is a map of its name to its fields.
type (
	attestationRequest struct {
		UserData  []byte `cbor:"user_data"`
		Nonce     []byte `cbor:"nonce"`
		PublicKey []byte `cbor:"public_key"`
	}
	indexRequest struct {
		Index uint16 `cbor:"index"`
	}
	extendRequest struct {
		Index uint16 `cbor:"index"`
		Data  []byte `cbor:"data"`
	}
)

// decMode accepts indefinite lengths, which the module writes in its documents and may
// write elsewhere, and fields it does not know, which a newer module may add.
func decMode() (cbor.DecMode, error) {
	return cbor.DecOptions{
		DupMapKey:         cbor.DupMapKeyEnforcedAPF,
		TagsMd:            cbor.TagsForbidden,
		MaxNestedLevels:   6,
		MaxArrayElements:  64,
		MaxMapPairs:       64,
		UTF8:              cbor.UTF8RejectInvalid,
		FieldNameMatching: cbor.FieldNameMatchingCaseSensitive,
	}.DecMode()
}

// call sends the variant name with fields (nil: none) and reads the answer of the same
// name into answer (nil: it has no fields).
func (d *Device) call(name string, fields, answer any) error {
	var msg any = name
	if fields != nil {
		msg = map[string]any{name: fields}
	}
	req, err := cbor.Marshal(msg)
	if err != nil {
		return fmt.Errorf("encoding the request: %w", err)
	}
	if len(req) > MaxRequest {
		return fmt.Errorf("%w: %d bytes, at most %d are allowed", ErrTooLarge, len(req), MaxRequest)
	}
	raw, err := d.t.Exchange(req)
	if err != nil {
		return err
	}
	return decodeAnswer(raw, name, answer)
}

func decodeAnswer(raw []byte, name string, answer any) error {
	if len(raw) > MaxAnswer {
		return fmt.Errorf("%w: %d bytes, at most %d are allowed", ErrAnswer, len(raw), MaxAnswer)
	}
	mode, err := decMode()
	if err != nil {
		return err
	}
	if answer == nil {
		var unit string
		if mode.Unmarshal(raw, &unit) == nil && unit == name {
			return nil
		}
	}
	var outer map[string]cbor.RawMessage
	if err := mode.Unmarshal(raw, &outer); err != nil || len(outer) != 1 {
		return fmt.Errorf("%w: not one variant", ErrAnswer)
	}
	if inner, ok := outer["Error"]; ok {
		var code string
		if err := mode.Unmarshal(inner, &code); err != nil {
			return fmt.Errorf("%w: an error without a name", ErrAnswer)
		}
		return codeOf(code)
	}
	inner, ok := outer[name]
	if !ok || answer == nil {
		return fmt.Errorf("%w: not an answer to %s", ErrAnswer, name)
	}
	if err := mode.Unmarshal(inner, answer); err != nil {
		return fmt.Errorf("%w: the fields of %s are of other types", ErrAnswer, name)
	}
	return nil
}

// TimeOf returns when the module made a document, one that Attest has just returned: nothing is verified. Errors match
// ErrAnswer.
func TimeOf(document []byte) (time.Time, error) {
	t, err := timestampOf(document)
	if err != nil {
		return time.Time{}, fmt.Errorf("reading the module's clock: %w: %w", ErrAnswer, err)
	}
	return t, nil
}

// timestampOf reads one field of a document (COSE_Sign1, RFC 9052, over a CBOR map).
func timestampOf(document []byte) (time.Time, error) {
	mode, err := decMode()
	if err != nil {
		return time.Time{}, err
	}
	var signed struct {
		_                               struct{} `cbor:",toarray"`
		Protected, Unprotected, Payload cbor.RawMessage
		Signature                       []byte
	}
	var payload []byte
	var fields struct {
		Timestamp uint64 `cbor:"timestamp"` // milliseconds since 1970
	}
	if err := mode.Unmarshal(document, &signed); err != nil {
		return time.Time{}, err
	}
	if err := mode.Unmarshal(signed.Payload, &payload); err != nil {
		return time.Time{}, err
	}
	if err := mode.Unmarshal(payload, &fields); err != nil {
		return time.Time{}, err
	}
	if fields.Timestamp == 0 || fields.Timestamp > math.MaxInt64/1_000_000 {
		return time.Time{}, fmt.Errorf("a timestamp of %d ms", fields.Timestamp)
	}
	return time.UnixMilli(int64(fields.Timestamp)).UTC(), nil
}
