package nitro

import (
	"crypto/ecdsa"
	"io"
)

// Sign returns doc as an NSM would write it, signed by key, which must be on P-384:
// untagged COSE_Sign1, definite lengths, ES384. With a nil rand the signature is
// deterministic (RFC 6979). Digest may be left empty. Errors match ErrSign.
func Sign(doc Document, key *ecdsa.PrivateKey, rand io.Reader) ([]byte, error) {
	return nil, ErrSign
}
