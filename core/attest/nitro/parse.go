package nitro

import (
	"errors"
	"fmt"
	"time"

	"github.com/fxamacker/cbor/v2"
)

// COSE header parameters (RFC 9052, 3.1) and the algorithm (RFC 9053, 2.1).
const (
	tagSign1 = 0xd2 // tag 18 in its one-byte form
	algES384 = -35
)

var (
	labelAlg  = label{number: 1}
	labelCrit = label{number: 2}
)

// maxTimestamp is the end of the year 9999, the last that RFC 3339 can write.
const maxTimestamp = 253402300799999

// Parse reads an attestation document: COSE_Sign1, untagged or with tag 18. It verifies
// no signature. Errors match ErrMalformed.
func Parse(raw []byte) (*Signed, error) {
	s, err := parseSign1(raw)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrMalformed, err)
	}
	return s, nil
}

func parseSign1(raw []byte) (*Signed, error) {
	if len(raw) > MaxDocument {
		return nil, fmt.Errorf("%d bytes, at most %d are allowed", len(raw), MaxDocument)
	}
	if len(raw) > 0 && raw[0] == tagSign1 {
		raw = raw[1:]
	}
	var parts []cbor.RawMessage
	if err := decode(raw, majorArray, &parts); err != nil {
		return nil, fmt.Errorf("reading COSE_Sign1: %w", err)
	}
	if len(parts) != 4 {
		return nil, fmt.Errorf("COSE_Sign1 with %d parts, it has 4", len(parts))
	}
	s := &Signed{}
	var err error
	if s.Protected, err = bytesOf(parts[0], MaxDocument); err != nil {
		return nil, fmt.Errorf("reading protected header: %w", err)
	}
	if err := checkHeaders(s.Protected, parts[1]); err != nil {
		return nil, err
	}
	if s.Payload, err = bytesOf(parts[2], MaxDocument); err != nil {
		return nil, fmt.Errorf("reading payload: %w", err)
	}
	if s.Signature, err = bytesOf(parts[3], SignatureSize); err != nil {
		return nil, fmt.Errorf("reading signature: %w", err)
	}
	if len(s.Signature) != SignatureSize {
		return nil, fmt.Errorf("signature of %d bytes, ES384 has %d", len(s.Signature), SignatureSize)
	}
	if s.Document, err = parseDocument(s.Payload); err != nil {
		return nil, err
	}
	return s, nil
}

// checkHeaders wants ES384 in the protected header; an algorithm in the unprotected one is
// then there twice, or there alone, and refused either way. Other parameters are ignored,
// but what changes the meaning of a signature (crit) is refused.
func checkHeaders(protected, unprotected []byte) error {
	var inside, outside map[label]cbor.RawMessage
	if err := decode(protected, majorMap, &inside); err != nil {
		return fmt.Errorf("reading protected header: %w", err)
	}
	if err := decode(unprotected, majorMap, &outside); err != nil {
		return fmt.Errorf("reading unprotected header: %w", err)
	}
	for l := range outside {
		if _, both := inside[l]; both || l == labelCrit {
			return errors.New("unprotected header holds what only the protected one may hold")
		}
	}
	if _, ok := inside[labelCrit]; ok {
		return errors.New("critical header parameters are not supported")
	}
	var alg int64
	if err := decode(inside[labelAlg], majorNint, &alg); err != nil {
		return fmt.Errorf("reading algorithm: %w", err)
	}
	if alg != algES384 {
		return fmt.Errorf("algorithm %d, only ES384 (%d) is supported", alg, algES384)
	}
	return nil
}

func parseDocument(payload []byte) (Document, error) {
	var f map[textKey]cbor.RawMessage
	if err := decode(payload, majorMap, &f); err != nil {
		return Document{}, fmt.Errorf("reading payload: %w", err)
	}
	var d Document
	for _, field := range []struct {
		name string
		read func(raw []byte) error
	}{
		{"module_id", d.readModuleID},
		{"digest", d.readDigest},
		{"timestamp", d.readTimestamp},
		{"pcrs", d.readPCRs},
		{"certificate", func(raw []byte) (err error) { d.Certificate, err = certificateOf(raw); return }},
		{"cabundle", d.readCABundle},
		{"public_key", func(raw []byte) (err error) { d.PublicKey, err = optionalBytes(raw, MaxPublicKey); return }},
		{"user_data", func(raw []byte) (err error) { d.UserData, err = optionalBytes(raw, MaxUserData); return }},
		{"nonce", func(raw []byte) (err error) { d.Nonce, err = optionalBytes(raw, MaxNonce); return }},
	} {
		if err := field.read(f[textKey(field.name)]); err != nil {
			return Document{}, fmt.Errorf("reading %s: %w", field.name, err)
		}
	}
	return d, nil
}

func (d *Document) readModuleID(raw []byte) error {
	if err := decode(raw, majorText, &d.ModuleID); err != nil {
		return err
	}
	if n := len(d.ModuleID); n == 0 || n > MaxModuleID {
		return fmt.Errorf("%d bytes, 1 to %d are allowed", n, MaxModuleID)
	}
	return nil
}

func (d *Document) readDigest(raw []byte) error {
	if err := decode(raw, majorText, &d.Digest); err != nil {
		return err
	}
	if d.Digest != DigestSHA384 {
		return errors.New("not " + DigestSHA384)
	}
	return nil
}

func (d *Document) readTimestamp(raw []byte) error {
	var ms uint64
	if err := decode(raw, majorUint, &ms); err != nil {
		return err
	}
	if ms == 0 || ms > maxTimestamp {
		return fmt.Errorf("%d ms is no time", ms)
	}
	d.Timestamp = time.UnixMilli(int64(ms)).UTC()
	return nil
}

func (d *Document) readPCRs(raw []byte) error {
	var m map[indexKey]cbor.RawMessage
	if err := decode(raw, majorMap, &m); err != nil {
		return err
	}
	if len(m) == 0 {
		return errors.New("no PCR")
	}
	d.PCRs = make(map[int]PCR, len(m))
	for i, item := range m {
		value, err := bytesOf(item, MaxDocument)
		if err != nil {
			return fmt.Errorf("reading PCR%d: %w", i, err)
		}
		if len(value) != PCRSize {
			return fmt.Errorf("PCR%d of %d bytes, it has %d", i, len(value), PCRSize)
		}
		d.PCRs[int(i)] = PCR(value)
	}
	return nil
}

func (d *Document) readCABundle(raw []byte) error {
	var items []cbor.RawMessage
	if err := decode(raw, majorArray, &items); err != nil {
		return err
	}
	if len(items) == 0 || len(items) > MaxCABundle {
		return fmt.Errorf("%d certificates, 1 to %d are allowed", len(items), MaxCABundle)
	}
	for i, item := range items {
		der, err := certificateOf(item)
		if err != nil {
			return fmt.Errorf("reading certificate %d: %w", i, err)
		}
		d.CABundle = append(d.CABundle, der)
	}
	return nil
}

func certificateOf(raw []byte) ([]byte, error) {
	der, err := bytesOf(raw, MaxCertificate)
	if err == nil && len(der) == 0 {
		return nil, errors.New("empty certificate")
	}
	return der, err
}

// SignedBytes returns the Sig_structure that the signature covers (RFC 9052, 4.4),
// to be hashed with SHA-384. Header and payload go in as they came.
func (s *Signed) SignedBytes() []byte {
	b := make([]byte, 0, len(s.Protected)+len(s.Payload)+32)
	b = appendHead(b, majorArray, 4)
	b = appendText(b, "Signature1")
	b = appendBytes(b, s.Protected)
	b = appendBytes(b, nil) // external additional data: none
	return appendBytes(b, s.Payload)
}
