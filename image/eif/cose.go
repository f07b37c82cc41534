package eif

import (
	"bytes"
	"crypto/x509"
	"encoding/pem"
	"fmt"

	"github.com/fxamacker/cbor/v2"
)

// octets are bytes as serde writes a Vec<u8>: an array of numbers.
type octets []byte

// MarshalCBOR implements cbor.Marshaler.
func (o octets) MarshalCBOR() ([]byte, error) {
	numbers := make([]uint16, len(o))
	for i, b := range o {
		numbers[i] = uint16(b)
	}
	return encMode().Marshal(numbers)
}

// UnmarshalCBOR implements cbor.Unmarshaler.
func (o *octets) UnmarshalCBOR(raw []byte) error {
	var numbers []uint16
	if err := decMode().Unmarshal(raw, &numbers); err != nil {
		return err
	}
	*o = make(octets, len(numbers))
	for i, n := range numbers {
		if n > 0xff {
			return fmt.Errorf("%d is no byte", n)
		}
		(*o)[i] = byte(n)
	}
	return nil
}

// pcrSignature is one entry of the section.
type pcrSignature struct {
	Certificate octets `cbor:"signing_certificate"` // PEM
	Signature   octets `cbor:"signature"`           // COSE_Sign1
}

// pcrInfo is what is signed.
type pcrInfo struct {
	Index int    `cbor:"register_index"`
	Value octets `cbor:"register_value"`
}

// sign1 is COSE_Sign1 (RFC 9052, section 4.2) without a tag.
type sign1 struct {
	_           struct{} `cbor:",toarray"`
	Protected   []byte
	Unprotected map[int]int
	Payload     []byte
	Signature   []byte
}

// es384 is the protected header {1: -35}.
var es384 = []byte{0xa1, 0x01, 0x38, 0x22}

func encMode() cbor.EncMode {
	m, err := cbor.EncOptions{}.EncMode()
	if err != nil {
		panic(err) // the options are constant
	}
	return m
}

func decMode() cbor.DecMode {
	m, err := cbor.DecOptions{
		DupMapKey: cbor.DupMapKeyEnforcedAPF, IndefLength: cbor.IndefLengthForbidden, TagsMd: cbor.TagsForbidden,
		MaxNestedLevels: 4, ExtraReturnErrors: cbor.ExtraDecErrorUnknownField, FieldNameMatching: cbor.FieldNameMatchingCaseSensitive,
	}.DecMode()
	if err != nil {
		panic(err) // the options are constant
	}
	return m
}

// toBeSigned is the Sig_structure of RFC 9052, section 4.4.
func toBeSigned(payload []byte) ([]byte, error) {
	return encMode().Marshal([]any{"Signature1", es384, []byte{}, payload})
}

func encodeSignature(cert *x509.Certificate, payload, raw []byte) ([]byte, error) {
	signed, err := encMode().Marshal(sign1{Protected: es384, Unprotected: map[int]int{}, Payload: payload, Signature: raw})
	if err != nil {
		return nil, err
	}
	certificate := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: cert.Raw})
	return encMode().Marshal([]pcrSignature{{certificate, signed}})
}

// decodeSignature reads the one form that AWS's library writes: encoding what was read must
// give the same bytes. The signature is not verified yet.
func decodeSignature(section []byte) (cert *x509.Certificate, payload, raw []byte, err error) {
	var entries []pcrSignature
	if err := decMode().Unmarshal(section, &entries); err != nil {
		return nil, nil, nil, fmt.Errorf("%w: its section: %w", ErrSignature, err)
	}
	if again, err := encMode().Marshal(entries); err != nil || !bytes.Equal(again, section) || len(entries) != 1 {
		return nil, nil, nil, fmt.Errorf("%w: its section must hold one entry, encoded as AWS's library does", ErrSignature)
	}
	var s sign1
	if err := decMode().Unmarshal(entries[0].Signature, &s); err != nil {
		return nil, nil, nil, fmt.Errorf("%w: it is no COSE_Sign1: %w", ErrSignature, err)
	}
	again, err := encMode().Marshal(sign1{Protected: es384, Unprotected: map[int]int{}, Payload: s.Payload, Signature: s.Signature})
	if err != nil || !bytes.Equal(again, entries[0].Signature) || len(s.Signature) != 2*scalar {
		return nil, nil, nil, fmt.Errorf("%w: it must be ES384 with no other headers", ErrSignature)
	}
	cert, err = parseCertificate(entries[0].Certificate)
	return cert, s.Payload, s.Signature, err
}
