package seal

import (
	"crypto"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/x509"
	"encoding/base64"
	"errors"
	"fmt"
)

// Sizes of an RSA key that may sign checksums, in bits. Larger ones would let
// a server spend its caller's time.
const (
	minSigningBits = 2048
	maxSigningBits = 8192
)

// Sentinels of signed checksums.
var (
	// ErrSigningKey: the key is no PKCS#1 RSA key of 2048 to 8192 bits.
	ErrSigningKey = errors.New("checksum signing key is not a PKCS#1 RSA public key of 2048 to 8192 bits")
	// ErrSignature: the checksums are not what the key signed.
	ErrSignature = errors.New("checksum signature does not hold: the result is not the attested enclave's")
)

// Checksums are the SHA-256 of what went into a v1 run and came out of it.
type Checksums struct {
	Input    [32]byte // of the input
	Function [32]byte // of the zip
	Output   [32]byte // of the result
}

// SigningBytes is what a v1 enclave signs: the JSON object with padded
// standard base64, keys in the order input, function, output, no spaces, and
// one newline. 171 bytes.
func (c Checksums) SigningBytes() []byte {
	b64 := base64.StdEncoding.AppendEncode
	out := make([]byte, 0, 171)
	out = b64(append(out, `{"input":"`...), c.Input[:])
	out = b64(append(out, `","function":"`...), c.Function[:])
	out = b64(append(out, `","output":"`...), c.Output[:])
	return append(out, "\"}\n"...)
}

// SignChecksums signs c by RSA-PSS with SHA-256 and a salt of 32 bytes.
func SignChecksums(key *rsa.PrivateKey, c Checksums) ([]byte, error) {
	digest := sha256.Sum256(c.SigningBytes())
	opts := &rsa.PSSOptions{SaltLength: rsa.PSSSaltLengthEqualsHash, Hash: crypto.SHA256}
	sig, err := rsa.SignPSS(rand.Reader, key, crypto.SHA256, digest[:], opts)
	if err != nil {
		return nil, fmt.Errorf("signing checksums: %w", err)
	}
	return sig, nil
}

// VerifyChecksums checks sig, of any salt length, under a public key in PKCS#1
// DER, the form in which attestation documents carry it. It says nothing of
// whether the checksums are those of what was sent and received: the caller
// compares them. Errors: ErrSigningKey, ErrSignature.
func VerifyChecksums(pubPKCS1DER []byte, c Checksums, sig []byte) error {
	pub, err := x509.ParsePKCS1PublicKey(pubPKCS1DER)
	if err != nil {
		return ErrSigningKey
	}
	if bits := pub.N.BitLen(); bits < minSigningBits || bits > maxSigningBits {
		return ErrSigningKey
	}
	digest := sha256.Sum256(c.SigningBytes())
	opts := &rsa.PSSOptions{SaltLength: rsa.PSSSaltLengthAuto, Hash: crypto.SHA256}
	if err := rsa.VerifyPSS(pub, crypto.SHA256, digest[:], sig, opts); err != nil {
		return ErrSignature
	}
	return nil
}
