package keystore

import (
	"crypto/aes"
	"crypto/cipher"
	"crypto/hkdf"
	"crypto/rand"
	"crypto/sha256"
	"encoding/binary"
	"fmt"
	"io"
)

const (
	saltSize = 32
	// SealOverhead is what Seal adds, in bytes.
	SealOverhead = saltSize + 16
)

// Seal encrypts plaintext with AES-256-GCM under a key derived from key and a
// fresh salt, so that no number of messages wears the key out. label names the
// use, aad is authenticated with it. The result is salt || ciphertext || tag.
func Seal(key []byte, label string, aad, plaintext []byte) ([]byte, error) {
	salt := make([]byte, saltSize, saltSize+len(plaintext)+16)
	if _, err := io.ReadFull(rand.Reader, salt); err != nil {
		return nil, fmt.Errorf("reading randomness: %w", err)
	}
	aead, err := derived(key, salt, label)
	if err != nil {
		return nil, err
	}
	return aead.Seal(salt, make([]byte, aead.NonceSize()), plaintext, bind(label, aad)), nil
}

// Unseal undoes Seal. Errors wrap ErrCorrupt.
func Unseal(key []byte, label string, aad, sealed []byte) ([]byte, error) {
	if len(sealed) < SealOverhead {
		return nil, fmt.Errorf("%w: too short", ErrCorrupt)
	}
	aead, err := derived(key, sealed[:saltSize], label)
	if err != nil {
		return nil, err
	}
	out, err := aead.Open(nil, make([]byte, aead.NonceSize()), sealed[saltSize:], bind(label, aad))
	if err != nil {
		return nil, fmt.Errorf("%w: it was changed, or sealed under another key", ErrCorrupt)
	}
	return out, nil
}

func derived(key, salt []byte, label string) (cipher.AEAD, error) {
	k, err := hkdf.Key(sha256.New, key, salt, "cape localkms "+label, 32)
	if err != nil {
		return nil, fmt.Errorf("deriving key: %w", err)
	}
	block, err := aes.NewCipher(k)
	if err != nil {
		return nil, fmt.Errorf("deriving key: %w", err)
	}
	return cipher.NewGCM(block)
}

func bind(label string, aad []byte) []byte {
	out := binary.BigEndian.AppendUint32(nil, uint32(len(label)))
	return append(append(out, label...), aad...)
}
