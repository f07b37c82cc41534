package envelope

import (
	"bytes"
	"crypto/aes"
	"crypto/cipher"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"encoding/base64"
	"fmt"
)

const (
	keySize   = 32
	nonceSize = 12
	tagSize   = 16

	minKeyBits = 2048
	maxKeyBits = 4096

	// textBlock is how much base64 is worked on at a time within one buffer;
	// a multiple of 4, so that its decoded size is one of 3.
	textBlock = 64 << 10
)

// checkKey refuses keys no Cape Key ever was, before anything costs time.
func checkKey(pub *rsa.PublicKey) error {
	if pub == nil || pub.N == nil || pub.N.BitLen() < minKeyBits || pub.N.BitLen() > maxKeyBits {
		return fmt.Errorf("%w: not an RSA key of %d to %d bits", ErrKey, minKeyBits, maxKeyBits)
	}
	return nil
}

// SealOld seals plaintext in the old form: as text ("cape:" and base64), or
// raw, as deploy bodies are. Error: ErrKey.
func SealOld(pub *rsa.PublicKey, plaintext []byte, raw bool) ([]byte, error) {
	if err := checkKey(pub); err != nil {
		return nil, err
	}
	size := pub.Size() + nonceSize + len(plaintext) + tagSize
	whole := len(prefixOld) + size
	if !raw {
		whole = len(prefixOld) + base64.StdEncoding.EncodedLen(size)
	}
	// The text grows forward over the sealed bytes, which lie at the end.
	out := make([]byte, whole)
	copy(out, prefixOld)
	sealed := out[whole-size:]

	dek := make([]byte, keySize)
	rand.Read(dek)
	defer clear(dek)
	wrapped, err := rsa.EncryptOAEP(sha256.New(), rand.Reader, pub, dek, nil)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrKey, err)
	}
	copy(sealed, wrapped)
	nonce := sealed[pub.Size():][:nonceSize]
	rand.Read(nonce)
	gcm, err := newGCM(dek)
	if err != nil {
		return nil, err
	}
	gcm.Seal(sealed[pub.Size()+nonceSize:][:0], nonce, plaintext, nil)
	if !raw {
		encodeForward(out[len(prefixOld):], sealed)
	}
	return out, nil
}

// OpenOld opens the old form, text or raw, and leaves data as it is. One
// newline at the end of the text, as printed by the CLI, is accepted. Errors:
// ErrKey, ErrFormat, ErrDamaged.
func OpenOld(priv *rsa.PrivateKey, data []byte, raw bool) ([]byte, error) {
	if raw {
		body, err := oldBody(data)
		if err != nil {
			return nil, err
		}
		return openOldBody(priv, body, nil)
	}
	return OpenOldTextInPlace(priv, bytes.Clone(data))
}

// OpenOldRawInPlace opens a raw envelope within buf: the plaintext lies in it,
// and buf is overwritten, after an error as well.
func OpenOldRawInPlace(priv *rsa.PrivateKey, buf []byte) ([]byte, error) {
	body, err := oldBody(buf)
	if err != nil {
		return nil, err
	}
	return openOldBody(priv, body, body)
}

// OpenOldTextInPlace opens a text envelope within buf: the plaintext lies in
// it, and buf is overwritten, after an error as well.
func OpenOldTextInPlace(priv *rsa.PrivateKey, buf []byte) ([]byte, error) {
	text, err := oldBody(buf)
	if err != nil {
		return nil, err
	}
	body, err := decodeBackward(trimNewline(text))
	if err != nil {
		return nil, err
	}
	return openOldBody(priv, body, body)
}

func oldBody(data []byte) ([]byte, error) {
	if !bytes.HasPrefix(data, []byte(prefixOld)) {
		return nil, fmt.Errorf("%w: it does not begin with %q", ErrFormat, prefixOld)
	}
	return data[len(prefixOld):], nil
}

// openOldBody opens wrapped key ‖ nonce ‖ ciphertext into room, which is nil
// or body itself.
func openOldBody(priv *rsa.PrivateKey, body, room []byte) ([]byte, error) {
	if priv == nil {
		return nil, fmt.Errorf("%w: none given", ErrKey)
	}
	if err := checkKey(&priv.PublicKey); err != nil {
		return nil, err
	}
	head := priv.Size() + nonceSize
	if len(body) < head+tagSize {
		return nil, fmt.Errorf("%w: %d bytes are fewer than key, nonce and tag", ErrFormat, len(body))
	}
	dek, err := rsa.DecryptOAEP(sha256.New(), nil, priv, body[:priv.Size()], nil)
	if err != nil {
		return nil, ErrDamaged
	}
	defer clear(dek)
	if len(dek) != keySize {
		return nil, fmt.Errorf("%w: its data key is not of %d bytes", ErrFormat, keySize)
	}
	gcm, err := newGCM(dek)
	if err != nil {
		return nil, err
	}
	var dst []byte
	if room != nil {
		dst = room[head:head]
	}
	plaintext, err := gcm.Open(dst, body[priv.Size():head], body[head:], nil)
	if err != nil {
		return nil, ErrDamaged
	}
	return plaintext, nil
}

func newGCM(key []byte) (cipher.AEAD, error) {
	block, err := aes.NewCipher(key)
	if err != nil {
		return nil, fmt.Errorf("preparing AES-256-GCM: %w", err)
	}
	gcm, err := cipher.NewGCM(block)
	if err != nil {
		return nil, fmt.Errorf("preparing AES-256-GCM: %w", err)
	}
	return gcm, nil
}
