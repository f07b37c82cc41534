package eif

import (
	"bytes"
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha512"
	"crypto/x509"
	"encoding/asn1"
	"encoding/pem"
	"fmt"
	"io"
	"math/big"

	"github.com/cape-functions/cape/core/attest/nitro"
)

// scalar is the size of r and of s in a signature of P-384.
const scalar = 48

// Signer signs images.
type Signer struct {
	// Key is for ECDSA on P-384; a hardware module's will do.
	Key crypto.Signer
	// Certificate of Key. PCR8 is its hash: another certificate of the same key gives
	// another PCR8.
	Certificate *x509.Certificate
}

func (s Signer) check() error {
	cert, ok := s.Certificate.PublicKey.(*ecdsa.PublicKey)
	if !ok || cert.Curve != elliptic.P384() {
		return fmt.Errorf("%w: the certificate must be for ECDSA on P-384", ErrSigner)
	}
	if !cert.Equal(s.Key.Public()) {
		return fmt.Errorf("%w: the certificate is of another key", ErrSigner)
	}
	return nil
}

// section makes the content of the signature section over pcr0.
func (s Signer) section(pcr0 nitro.PCR) ([]byte, error) {
	payload, err := encMode().Marshal(pcrInfo{Index: 0, Value: pcr0[:]})
	if err != nil {
		return nil, err
	}
	tbs, err := toBeSigned(payload)
	if err != nil {
		return nil, err
	}
	sum := sha512.Sum384(tbs)
	der, err := s.Key.Sign(rand.Reader, sum[:], crypto.SHA384)
	if err != nil {
		return nil, fmt.Errorf("signing: %w", err)
	}
	var sig struct{ R, S *big.Int }
	if rest, err := asn1.Unmarshal(der, &sig); err != nil || len(rest) > 0 || sig.R.BitLen() > 8*scalar || sig.S.BitLen() > 8*scalar {
		return nil, fmt.Errorf("%w: the key does not sign by ECDSA", ErrSigner)
	}
	raw := make([]byte, 2*scalar)
	sig.R.FillBytes(raw[:scalar])
	sig.S.FillBytes(raw[scalar:])
	return encodeSignature(s.Certificate, payload, raw)
}

// Sign writes the image of size bytes in image to w with a signature of s in the place of any
// other, and returns what it wrote. w stands at the beginning of an empty file. Errors
// match ErrSigner and those of Read and Write.
func Sign(ctx context.Context, w io.WriteSeeker, image io.ReaderAt, size int64, s Signer) (*Image, error) {
	if err := s.check(); err != nil {
		return nil, err
	}
	i, err := Read(ctx, io.NewSectionReader(image, 0, size), nil)
	if err != nil {
		return nil, err
	}
	section, err := s.section(i.Measurements.PCR0)
	if err != nil {
		return nil, err
	}
	f := file{header: &header{flags: i.flags, memory: i.Memory, cpus: i.CPUs}}
	for _, part := range i.Sections {
		if part.Kind != Signature {
			f.add(part.Kind, Part{io.NewSectionReader(image, part.Offset, part.Size), part.Size})
		}
	}
	f.add(Signature, Part{bytes.NewReader(section), int64(len(section))})
	m, err := f.write(ctx, w)
	if err != nil {
		return nil, err
	}
	if m.PCR0 != i.Measurements.PCR0 {
		return nil, fmt.Errorf("%w: it changed while it was signed", ErrFormat)
	}
	m.PCR8 = certificatePCR(s.Certificate)
	last := f.sections[len(f.sections)-1]
	i.Sections, i.Size, i.Measurements, i.Certificate = f.sections, last.Offset+last.Size, m, s.Certificate
	return i, nil
}

// verify checks a signature section over pcr0 and returns the signer's certificate.
func verify(section []byte, pcr0 nitro.PCR) (*x509.Certificate, error) {
	cert, payload, raw, err := decodeSignature(section)
	if err != nil {
		return nil, err
	}
	key, ok := cert.PublicKey.(*ecdsa.PublicKey)
	if !ok || key.Curve != elliptic.P384() {
		return nil, fmt.Errorf("%w: its certificate is not for ECDSA on P-384", ErrSignature)
	}
	want, err := encMode().Marshal(pcrInfo{Index: 0, Value: pcr0[:]})
	if err != nil {
		return nil, err
	}
	if !bytes.Equal(payload, want) {
		return nil, fmt.Errorf("%w: it is over another PCR0 than %s", ErrSignature, pcr0)
	}
	tbs, err := toBeSigned(payload)
	if err != nil {
		return nil, err
	}
	sum := sha512.Sum384(tbs)
	if !ecdsa.Verify(key, sum[:], new(big.Int).SetBytes(raw[:scalar]), new(big.Int).SetBytes(raw[scalar:])) {
		return nil, fmt.Errorf("%w: it is not by the key of its certificate", ErrSignature)
	}
	return cert, nil
}

// parseCertificate reads one PEM block and nothing else.
func parseCertificate(data []byte) (*x509.Certificate, error) {
	block, rest := pem.Decode(data)
	if block == nil || block.Type != "CERTIFICATE" || len(bytes.TrimSpace(rest)) > 0 {
		return nil, fmt.Errorf("%w: its certificate is not one PEM block", ErrSignature)
	}
	cert, err := x509.ParseCertificate(block.Bytes)
	if err != nil {
		return nil, fmt.Errorf("%w: its certificate: %w", ErrSignature, err)
	}
	return cert, nil
}
