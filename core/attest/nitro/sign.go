package nitro

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/sha512"
	"encoding/asn1"
	"errors"
	"fmt"
	"io"
	"maps"
	"math/big"
	"slices"
)

// protectedES384 is the NSM's protected header, {1: -35}.
var protectedES384 = []byte{0xa1, 0x01, 0x38, 0x22}

// Sign returns doc as an NSM would write it, signed by key, which must be on P-384:
// untagged COSE_Sign1, definite lengths, ES384. With a nil rand the signature is
// deterministic (RFC 6979). Digest may be left empty. Errors match ErrSign.
func Sign(doc Document, key *ecdsa.PrivateKey, rand io.Reader) ([]byte, error) {
	raw, err := sign(doc, key, rand)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrSign, err)
	}
	return raw, nil
}

func sign(doc Document, key *ecdsa.PrivateKey, rand io.Reader) ([]byte, error) {
	if key == nil || key.Curve != elliptic.P384() {
		return nil, errors.New("the key is not on P-384")
	}
	if doc.Digest == "" {
		doc.Digest = DigestSHA384
	}
	s := Signed{Protected: protectedES384, Payload: doc.payload()}
	var err error
	if s.Signature, err = signES384(s.SignedBytes(), key, rand); err != nil {
		return nil, err
	}
	raw := s.encode()
	// Reading it back holds the signer to every limit of the reader.
	if _, err := Parse(raw); err != nil {
		return nil, err
	}
	return raw, nil
}

func signES384(message []byte, key *ecdsa.PrivateKey, rand io.Reader) ([]byte, error) {
	digest := sha512.Sum384(message)
	der, err := key.Sign(rand, digest[:], crypto.SHA384)
	if err != nil {
		return nil, err
	}
	var v struct{ R, S *big.Int }
	if _, err := asn1.Unmarshal(der, &v); err != nil {
		return nil, err
	}
	sig := make([]byte, SignatureSize)
	v.R.FillBytes(sig[:SignatureSize/2])
	v.S.FillBytes(sig[SignatureSize/2:])
	return sig, nil
}

// encode returns the COSE_Sign1, untagged.
func (s *Signed) encode() []byte {
	b := make([]byte, 0, len(s.Payload)+SignatureSize+32)
	b = appendHead(b, majorArray, 4)
	b = appendBytes(b, s.Protected)
	b = appendHead(b, majorMap, 0)
	b = appendBytes(b, s.Payload)
	return appendBytes(b, s.Signature)
}

// payload returns the document as the NSM orders its fields.
func (d *Document) payload() []byte {
	b := appendHead(nil, majorMap, 9)
	b = appendText(appendText(b, "module_id"), d.ModuleID)
	b = appendText(appendText(b, "digest"), d.Digest)
	b = appendHead(appendText(b, "timestamp"), majorUint, uint64(max(d.Timestamp.UnixMilli(), 0)))
	b = appendHead(appendText(b, "pcrs"), majorMap, uint64(len(d.PCRs)))
	for _, i := range slices.Sorted(maps.Keys(d.PCRs)) {
		value := d.PCRs[i]
		b = appendBytes(appendHead(b, majorUint, uint64(i)), value[:])
	}
	b = appendBytes(appendText(b, "certificate"), d.Certificate)
	b = appendHead(appendText(b, "cabundle"), majorArray, uint64(len(d.CABundle)))
	for _, der := range d.CABundle {
		b = appendBytes(b, der)
	}
	b = appendOptional(appendText(b, "public_key"), d.PublicKey)
	b = appendOptional(appendText(b, "user_data"), d.UserData)
	return appendOptional(appendText(b, "nonce"), d.Nonce)
}
