package envelope

import (
	"crypto/rsa"
	"io"
)

// NewWriter starts a cape:v2 envelope on w, text or binary, to the holder of
// pub's private half and the recipient. What is written to the result is the
// plaintext; Close writes the last chunk, without which the envelope does not
// open, and does not close w. Errors: ErrKey, ErrTo.
func NewWriter(w io.Writer, pub *rsa.PublicKey, to To, text bool) (io.WriteCloser, error) {
	return nil, ErrKey
}

// NewReader opens a cape:v2 envelope, text or binary, from r. allow sees the
// recipient first and may refuse it with an error of its own; then find
// returns the private key whose public half has this SHA-256 over its SPKI.
// Both must be given. The header is authenticated by the time NewReader
// returns. Whoever reads must take any error but io.EOF as "the plaintext is
// not whole". Errors: ErrFormat, ErrTruncated, ErrDamaged, ErrKey, and those
// of find and allow.
func NewReader(r io.Reader, find func(keyHash [32]byte) (*rsa.PrivateKey, error), allow func(To) error) (io.Reader, To, error) {
	return nil, To{}, ErrFormat
}
