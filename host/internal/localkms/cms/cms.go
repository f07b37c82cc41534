// Package cms writes the CMS EnvelopedData (RFC 5652) that AWS KMS puts into
// CiphertextForRecipient: BER with indefinite lengths, one recipient named by
// subject key identifier, RSAES-OAEP with SHA-256 (RFC 4055), AES-256-CBC
// with PKCS#7 padding (RFC 3565).
//
// The form follows two answers of AWS KMS that were published with AWS's C
// SDK for enclaves. It authenticates nothing by itself.
package cms

import (
	"bytes"
	"crypto/aes"
	"crypto/cipher"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/x509"
	"encoding/asn1"
	"errors"
	"fmt"
	"io"
)

// MaxPlaintext bounds what is wrapped, in bytes. The largest there is is an
// RSA-4096 private key, under 2.5 KiB.
const MaxPlaintext = 64 << 10

// Sizes of the RSA keys that a recipient may have, in bits.
const (
	MinKeyBits = 2048
	MaxKeyBits = 4096
)

// chunkSize is the length of the OCTET STRINGs of the constructed form.
const chunkSize = 1000

var (
	// ErrKey: the recipient's key is not an RSA key of an allowed size.
	ErrKey = errors.New("recipient's public key cannot be used")
	// ErrSize: the plaintext is too long.
	ErrSize = errors.New("plaintext is too long")
)

var (
	oidEnvelopedData = asn1.ObjectIdentifier{1, 2, 840, 113549, 1, 7, 3}
	oidData          = asn1.ObjectIdentifier{1, 2, 840, 113549, 1, 7, 1}
	oidOAEP          = asn1.ObjectIdentifier{1, 2, 840, 113549, 1, 1, 7}
	oidMGF1          = asn1.ObjectIdentifier{1, 2, 840, 113549, 1, 1, 8}
	oidSHA256        = asn1.ObjectIdentifier{2, 16, 840, 1, 101, 3, 4, 2, 1}
	oidAES256CBC     = asn1.ObjectIdentifier{2, 16, 840, 1, 101, 3, 4, 1, 42}
)

// ParseKey reads a DER SubjectPublicKeyInfo. Errors wrap ErrKey.
func ParseKey(spki []byte) (*rsa.PublicKey, error) {
	k, err := x509.ParsePKIXPublicKey(spki)
	if err != nil {
		return nil, fmt.Errorf("%w: not a DER SubjectPublicKeyInfo", ErrKey)
	}
	key, ok := k.(*rsa.PublicKey)
	if !ok || key.N.BitLen() < MinKeyBits || key.N.BitLen() > MaxKeyBits {
		return nil, fmt.Errorf("%w: it must be RSA of %d to %d bits", ErrKey, MinKeyBits, MaxKeyBits)
	}
	return key, nil
}

// Envelope encrypts plaintext to the key spki. Content of one cipher block is
// written as a primitive [0], longer content as a constructed [0] of OCTET
// STRINGs: AWS KMS uses both, so readers must understand both. Errors wrap
// ErrKey or ErrSize.
func Envelope(spki, plaintext []byte) ([]byte, error) {
	key, err := ParseKey(spki)
	if err != nil {
		return nil, err
	}
	if len(plaintext) > MaxPlaintext {
		return nil, fmt.Errorf("%w: %d bytes, at most %d", ErrSize, len(plaintext), MaxPlaintext)
	}
	secret := make([]byte, 32+aes.BlockSize)
	if _, err := io.ReadFull(rand.Reader, secret); err != nil {
		return nil, fmt.Errorf("reading randomness: %w", err)
	}
	contentKey, iv := secret[:32], secret[32:]
	block, err := aes.NewCipher(contentKey)
	if err != nil {
		return nil, fmt.Errorf("encrypting content: %w", err)
	}
	pad := aes.BlockSize - len(plaintext)%aes.BlockSize
	content := append(bytes.Clone(plaintext), bytes.Repeat([]byte{byte(pad)}, pad)...)
	cipher.NewCBCEncrypter(block, iv).CryptBlocks(content, content)
	wrapped, err := rsa.EncryptOAEP(sha256.New(), rand.Reader, key, contentKey, nil)
	if err != nil {
		return nil, fmt.Errorf("%w: encrypting content key: %w", ErrKey, err)
	}
	id := sha256.Sum256(spki)
	return encode(id[:], wrapped, iv, content)
}

// encode writes the structure; only what AWS KMS writes with indefinite
// lengths has them here.
func encode(keyID, wrapped, iv, content []byte) ([]byte, error) {
	var e encoder
	recipient := e.set(0x31, e.set(0x30,
		e.der(2),
		e.raw(0x80, keyID),
		e.set(0x30, e.der(oidOAEP), e.oaepParameters()),
		e.der(wrapped)))
	info := e.open(0x30,
		e.der(oidData),
		e.set(0x30, e.der(oidAES256CBC), e.der(iv)),
		e.content(content))
	out := e.open(0x30, e.der(oidEnvelopedData), e.open(0xa0, e.open(0x30, e.der(2), recipient, info)))
	return out, e.err
}

// encoder builds tag-length-value triples and keeps the first error.
type encoder struct{ err error }

func (e *encoder) der(v any) []byte {
	b, err := asn1.Marshal(v)
	if err != nil && e.err == nil {
		e.err = fmt.Errorf("encoding: %w", err)
	}
	return b
}

// raw writes a primitive of definite length.
func (e *encoder) raw(tag byte, content []byte) []byte {
	out := []byte{tag}
	switch n := len(content); {
	case n < 0x80:
		out = append(out, byte(n))
	case n < 0x100:
		out = append(out, 0x81, byte(n))
	case n < 0x10000:
		out = append(out, 0x82, byte(n>>8), byte(n))
	default:
		out = append(out, 0x83, byte(n>>16), byte(n>>8), byte(n))
	}
	return append(out, content...)
}

// set writes a constructed value of definite length.
func (e *encoder) set(tag byte, parts ...[]byte) []byte { return e.raw(tag, bytes.Join(parts, nil)) }

// open writes a constructed value of indefinite length.
func (e *encoder) open(tag byte, parts ...[]byte) []byte {
	out := append([]byte{tag, 0x80}, bytes.Join(parts, nil)...)
	return append(out, 0, 0)
}

func (e *encoder) oaepParameters() []byte {
	hash := e.set(0x30, e.der(oidSHA256), []byte{5, 0})
	return e.set(0x30, e.set(0xa0, hash), e.set(0xa1, e.set(0x30, e.der(oidMGF1), hash)))
}

func (e *encoder) content(content []byte) []byte {
	if len(content) == aes.BlockSize {
		return e.raw(0x80, content)
	}
	var parts [][]byte
	for len(content) > 0 {
		n := min(chunkSize, len(content))
		parts = append(parts, e.der(content[:n]))
		content = content[n:]
	}
	return e.open(0xa0, parts...)
}
