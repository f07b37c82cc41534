package attest_test

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/sha512"
	"crypto/x509"
	"errors"
	"math/big"
	"testing"
	"time"

	"github.com/fxamacker/cbor/v2"

	"github.com/cape-functions/cape/core/attest"
	"github.com/cape-functions/cape/core/attest/chain"
	"github.com/cape-functions/cape/core/attest/nitro"
	"github.com/cape-functions/cape/core/attest/policy"
)

// The benchmarks come in pairs, ours and its peer, to be compared within one run. They use
// a real document: AWS's chain of five certificates.

func benchDocument(b *testing.B) (raw []byte, p policy.Policy, at time.Time) {
	raw = fixture(b, "cape-user-key-2023-02-10.cbor")
	s, err := nitro.Parse(raw)
	if err != nil {
		b.Fatal(err)
	}
	d := s.Document
	return raw, policy.Policy{
		Roots: [][]byte{chain.AWSRoot()},
		PCRs:  map[int][]nitro.PCR{0: {d.PCRs[0]}, 1: {d.PCRs[1]}, 2: {d.PCRs[2]}, 8: {d.PCRs[8]}},
		Nonce: d.Nonce,
	}, d.Timestamp.Add(time.Minute)
}

func BenchmarkVerifySeenChain(b *testing.B) {
	raw, p, at := benchDocument(b)
	v := chain.New()
	if _, err := attest.Verify(v, raw, p, at); err != nil {
		b.Fatal(err)
	}
	b.ReportAllocs()
	for b.Loop() {
		if _, err := attest.Verify(v, raw, p, at); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkTwoP384Verifies(b *testing.B) {
	raw, _, _ := benchDocument(b)
	s, err := nitro.Parse(raw)
	if err != nil {
		b.Fatal(err)
	}
	leaf, err := x509.ParseCertificate(s.Document.Certificate)
	if err != nil {
		b.Fatal(err)
	}
	digest := sha512.Sum384(s.SignedBytes())
	r, v := new(big.Int).SetBytes(s.Signature[:48]), new(big.Int).SetBytes(s.Signature[48:])
	for b.Loop() {
		for range 2 {
			if !ecdsa.Verify(leaf.PublicKey.(*ecdsa.PublicKey), digest[:], r, v) {
				b.Fatal("signature")
			}
		}
	}
}

func BenchmarkVerifyNewChain(b *testing.B) {
	raw, p, at := benchDocument(b)
	b.ReportAllocs()
	for b.Loop() {
		if _, err := attest.Verify(chain.New(), raw, p, at); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkPlainVerify(b *testing.B) {
	raw, p, at := benchDocument(b)
	b.ReportAllocs()
	for b.Loop() {
		if err := plainVerify(raw, p.Roots[0], p.Nonce, at); err != nil {
			b.Fatal(err)
		}
	}
}

// plainVerify does what a verifier from the standard library does, with nothing
// remembered: decode, build and verify the path, verify the signature, compare the nonce.
func plainVerify(raw, root, nonce []byte, at time.Time) error {
	var sign1 struct {
		_           struct{} `cbor:",toarray"`
		Protected   []byte
		Unprotected cbor.RawMessage
		Payload     []byte
		Signature   []byte
	}
	if err := cbor.Unmarshal(raw, &sign1); err != nil {
		return err
	}
	var doc struct {
		Certificate []byte         `cbor:"certificate"`
		CABundle    [][]byte       `cbor:"cabundle"`
		PCRs        map[int][]byte `cbor:"pcrs"`
		Nonce       []byte         `cbor:"nonce"`
	}
	if err := cbor.Unmarshal(sign1.Payload, &doc); err != nil {
		return err
	}
	leaf, err := plainChain(doc.Certificate, doc.CABundle, root, at)
	if err != nil {
		return err
	}
	message, err := cbor.Marshal([]any{"Signature1", sign1.Protected, []byte{}, sign1.Payload})
	if err != nil {
		return err
	}
	digest := sha512.Sum384(message)
	r, s := new(big.Int).SetBytes(sign1.Signature[:48]), new(big.Int).SetBytes(sign1.Signature[48:])
	if !ecdsa.Verify(leaf.PublicKey.(*ecdsa.PublicKey), digest[:], r, s) {
		return errors.New("signature")
	}
	if !bytes.Equal(doc.Nonce, nonce) {
		return errors.New("nonce")
	}
	return nil
}

func plainChain(leafDER []byte, bundle [][]byte, rootDER []byte, at time.Time) (*x509.Certificate, error) {
	roots, intermediates := x509.NewCertPool(), x509.NewCertPool()
	root, err := x509.ParseCertificate(rootDER)
	if err != nil {
		return nil, err
	}
	roots.AddCert(root)
	for _, der := range bundle {
		c, err := x509.ParseCertificate(der)
		if err != nil {
			return nil, err
		}
		intermediates.AddCert(c)
	}
	leaf, err := x509.ParseCertificate(leafDER)
	if err != nil {
		return nil, err
	}
	_, err = leaf.Verify(x509.VerifyOptions{Roots: roots, Intermediates: intermediates, CurrentTime: at,
		KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageAny}})
	return leaf, err
}
