package chain

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/sha256"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/cape-functions/cape/core/attest/nitro"
)

// verifyCertificates checks root, authorities and leaf, each issued by the one before it.
// Cheap checks come first, so that no signature is computed for what fails anyway. The
// general path building of crypto/x509 would accept more than an NSM ever sends: other
// orders, other algorithms, several paths.
func verifyCertificates(bundle [][]byte, leaf []byte) (*verified, error) {
	if n := len(bundle); n == 0 || n > nitro.MaxCABundle {
		return nil, fmt.Errorf("%d authorities, 1 to %d are allowed", n, nitro.MaxCABundle)
	}
	certs := make([]*x509.Certificate, 0, len(bundle)+1)
	for _, der := range append(bundle[:len(bundle):len(bundle)], leaf) {
		c, err := x509.ParseCertificate(der)
		if err != nil {
			return nil, fmt.Errorf("reading certificate %d: %w", len(certs), err)
		}
		certs = append(certs, c)
	}
	for i, c := range certs {
		if err := checkCertificate(certs, i); err != nil {
			return nil, fmt.Errorf("certificate %d: %w", i, err)
		}
		if i > 0 && (!bytes.Equal(c.RawIssuer, certs[i-1].RawSubject) || bytes.Equal(c.RawIssuer, c.RawSubject)) {
			return nil, fmt.Errorf("certificate %d was not issued by the one before it", i)
		}
	}
	for i, c := range certs[1:] {
		if err := certs[i].CheckSignature(c.SignatureAlgorithm, c.RawTBSCertificate, c.Signature); err != nil {
			return nil, fmt.Errorf("certificate %d was not signed by the one before it: %w", i+1, err)
		}
	}
	c := Chain{Root: sha256.Sum256(bundle[0]), Leaf: sha256.Sum256(leaf)}
	c.NotBefore, c.NotAfter = validity(certs)
	return &verified{chain: c, key: certs[len(certs)-1].PublicKey.(*ecdsa.PublicKey)}, nil
}

// checkCertificate checks what certificate i says of itself, given its place.
func checkCertificate(certs []*x509.Certificate, i int) error {
	c := certs[i]
	if key, ok := c.PublicKey.(*ecdsa.PublicKey); !ok || key.Curve != elliptic.P384() {
		return errors.New("the key is not on P-384")
	}
	if c.SignatureAlgorithm != x509.ECDSAWithSHA384 {
		return errors.New("not signed with ECDSA and SHA-384")
	}
	if len(c.UnhandledCriticalExtensions) > 0 || constrainsNames(c) {
		return errors.New("it has extensions that cannot be honoured")
	}
	if i == len(certs)-1 {
		return checkLeaf(c)
	}
	return checkAuthority(c, len(certs)-2-i)
}

// checkAuthority checks a certificate with below authorities between it and the leaf.
func checkAuthority(c *x509.Certificate, below int) error {
	if !c.BasicConstraintsValid || !c.IsCA || c.KeyUsage&x509.KeyUsageCertSign == 0 {
		return errors.New("not an authority")
	}
	if (c.MaxPathLen > 0 || c.MaxPathLenZero) && below > c.MaxPathLen {
		return fmt.Errorf("%d authorities below it, it allows %d", below, c.MaxPathLen)
	}
	return nil
}

func checkLeaf(c *x509.Certificate) error {
	if c.IsCA || c.KeyUsage&x509.KeyUsageCertSign != 0 {
		return errors.New("the leaf is an authority")
	}
	if c.KeyUsage&x509.KeyUsageDigitalSignature == 0 {
		return errors.New("the leaf may not sign")
	}
	return nil
}

// oidNameConstraints is id-ce-nameConstraints, RFC 5280, 4.2.1.10.
var oidNameConstraints = asn1.ObjectIdentifier{2, 5, 29, 30}

// constrainsNames tells of name constraints. crypto/x509 counts them as handled, but only
// its own path building honours them; an NSM's chain has none.
func constrainsNames(c *x509.Certificate) bool {
	return slices.ContainsFunc(c.Extensions, func(e pkix.Extension) bool {
		return e.Id.Equal(oidNameConstraints)
	})
}

// validity returns the time in which all certificates are valid.
func validity(certs []*x509.Certificate) (from, to time.Time) {
	from, to = certs[0].NotBefore, certs[0].NotAfter
	for _, c := range certs[1:] {
		if c.NotBefore.After(from) {
			from = c.NotBefore
		}
		if c.NotAfter.Before(to) {
			to = c.NotAfter
		}
	}
	return from, to
}
