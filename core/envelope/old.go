package envelope

import "crypto/rsa"

// SealOld seals plaintext in the old form: as text ("cape:" and base64), or
// raw, as deploy bodies are. Error: ErrKey.
func SealOld(pub *rsa.PublicKey, plaintext []byte, raw bool) ([]byte, error) {
	return nil, ErrKey
}

// OpenOld opens the old form, text or raw, and leaves data as it is. One
// newline at the end of the text, as printed by the CLI, is accepted. Errors:
// ErrKey, ErrFormat, ErrDamaged.
func OpenOld(priv *rsa.PrivateKey, data []byte, raw bool) ([]byte, error) {
	return nil, ErrFormat
}

// OpenOldRawInPlace opens a raw envelope within buf: the plaintext lies in it,
// and buf is overwritten, after an error as well.
func OpenOldRawInPlace(priv *rsa.PrivateKey, buf []byte) ([]byte, error) {
	return nil, ErrFormat
}

// OpenOldTextInPlace opens a text envelope within buf: the plaintext lies in
// it, and buf is overwritten, after an error as well.
func OpenOldTextInPlace(priv *rsa.PrivateKey, buf []byte) ([]byte, error) {
	return nil, ErrFormat
}
