package testkit

import (
	"bytes"
	"crypto/aes"
	"crypto/cipher"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"encoding/hex"
)

// Envelope is an answer for a recipient before it is written, to be changed by tests.
type Envelope struct {
	KeyID        []byte
	EncryptedKey []byte
	IV           []byte
	Ciphertext   []byte
	// Segment is the size of the OCTET STRINGs within the constructed form; 0 is the
	// primitive form.
	Segment int
}

// Seal encrypts plaintext to pub in the constructed form, in one segment.
func Seal(pub *rsa.PublicKey, plaintext []byte) *Envelope {
	key := make([]byte, 32)
	e := &Envelope{KeyID: make([]byte, 32), IV: make([]byte, aes.BlockSize)}
	for _, b := range [][]byte{key, e.KeyID, e.IV} {
		_, _ = rand.Read(b) // never fails
	}
	e.EncryptedKey = must(rsa.EncryptOAEP(sha256.New(), rand.Reader, pub, key, nil))
	n := aes.BlockSize - len(plaintext)%aes.BlockSize
	e.SealRaw(key, append(bytes.Clone(plaintext), bytes.Repeat([]byte{byte(n)}, n)...))
	return e
}

// SealRaw sets the ciphertext of whole blocks, padding included.
func (e *Envelope) SealRaw(key, blocks []byte) {
	e.Ciphertext = make([]byte, len(blocks))
	cipher.NewCBCEncrypter(must(aes.NewCipher(key)), e.IV).CryptBlocks(e.Ciphertext, blocks)
	e.Segment = max(len(blocks), 1)
}

// Parts of the form of KMS, each a whole element.
var (
	EnvelopedOID = unhex("06092a864886f70d010703")
	Version2     = unhex("020102")
	OAEP         = unhex("303c06092a864886f70d010107302fa00f300d06096086480165030402010500a11c301a06092a864886f70d010108300d06096086480165030402010500")
	DataOID      = unhex("06092a864886f70d010701")
	AESOID       = unhex("060960864801650304012a")
)

// BER writes e as KMS does.
func (e *Envelope) BER() []byte {
	recipient := TLV(0x30, Version2, TLV(0x80, e.KeyID), OAEP, TLV(0x04, e.EncryptedKey))
	content := TLV(0x80, e.Ciphertext)
	if e.Segment > 0 {
		var parts [][]byte
		for rest := e.Ciphertext; len(rest) > 0; {
			n := min(e.Segment, len(rest))
			parts, rest = append(parts, TLV(0x04, rest[:n])), rest[n:]
		}
		content = Indefinite(0xa0, parts...)
	}
	encrypted := Indefinite(0x30, DataOID, TLV(0x30, AESOID, TLV(0x04, e.IV)), content)
	return Indefinite(0x30, EnvelopedOID, Indefinite(0xa0, Indefinite(0x30, Version2, TLV(0x31, recipient), encrypted)))
}

// TLV writes an element of definite length.
func TLV(tag byte, parts ...[]byte) []byte {
	body := bytes.Join(parts, nil)
	switch n := len(body); {
	case n < 0x80:
		return append([]byte{tag, byte(n)}, body...)
	case n < 0x100:
		return append([]byte{tag, 0x81, byte(n)}, body...)
	default:
		return append([]byte{tag, 0x82, byte(n >> 8), byte(n)}, body...)
	}
}

// Indefinite writes an element of indefinite length.
func Indefinite(tag byte, parts ...[]byte) []byte {
	return append(append([]byte{tag, 0x80}, bytes.Join(parts, nil)...), 0, 0)
}

func unhex(s string) []byte { return must(hex.DecodeString(s)) }

func must[T any](v T, err error) T {
	if err != nil {
		panic(err) // testkit's inputs are its own
	}
	return v
}
