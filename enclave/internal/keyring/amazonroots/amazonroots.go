// Package amazonroots holds the root certificates of Amazon Trust Services, to which
// AWS's endpoints chain.
//
// It trusts the five files beside it, which are part of the image's measurement, and
// refuses whatever the host could add: it reads no file and no environment. cape-runtime
// calls it for its TLS to KMS and STS.
package amazonroots

import (
	"crypto/sha256"
	"crypto/x509"
	"embed"
	"encoding/hex"
	"encoding/pem"
	"errors"
	"fmt"
)

//go:embed *.pem
var files embed.FS

// fingerprints are the SHA-256 of the certificates' DER, as published at
// https://www.amazontrust.com/repository/.
var fingerprints = [...]struct{ file, sum string }{
	{"amazon-root-1.pem", "8ecde6884f3d87b1125ba31ac3fcb13d7016de7f57cc904fe1cb97c6ae98196e"},
	{"amazon-root-2.pem", "1ba5b2aa8c65401a82960118f80bec4f62304d83cec4713a19c39c011ea46db4"},
	{"amazon-root-3.pem", "18ce6cfe7bf14e60b2e347b8dfe868cb31d02ebb3ada271569f50343b46db3a4"},
	{"amazon-root-4.pem", "e35d28419ed02025cfa69038cd623962458da5c695fbdea3c22b0bfb25897092"},
	{"starfield-services-root-g2.pem", "568d6905a2c88708a4b3025190edcfedb1974a606a13c6e5290fcb2ae63edab5"},
}

// ErrRoots: a file beside this package is not the certificate it should be.
var ErrRoots = errors.New("a root certificate of Amazon is not the expected one")

// Pool returns a pool with Amazon Root CA 1 to 4 and Starfield Services Root CA - G2, each
// checked against its published fingerprint. Errors match ErrRoots.
func Pool() (*x509.CertPool, error) {
	pool := x509.NewCertPool()
	for _, f := range fingerprints {
		cert, err := read(f.file, f.sum)
		if err != nil {
			return nil, fmt.Errorf("%w: %s: %w", ErrRoots, f.file, err)
		}
		pool.AddCert(cert)
	}
	return pool, nil
}

func read(file, sum string) (*x509.Certificate, error) {
	text, err := files.ReadFile(file)
	if err != nil {
		return nil, err
	}
	block, _ := pem.Decode(text)
	if block == nil {
		return nil, errors.New("not PEM")
	}
	if got := sha256.Sum256(block.Bytes); hex.EncodeToString(got[:]) != sum {
		return nil, errors.New("its fingerprint differs")
	}
	return x509.ParseCertificate(block.Bytes)
}
