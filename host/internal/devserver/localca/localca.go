// Package localca makes the certificates with which `caped dev --tls` serves
// HTTPS on this machine, and signs the certificate of an enclave in which TLS
// ends. Its keys prove nothing but a connection to this
// machine: what clients believe comes from attestation.
package localca

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"fmt"
	"math/big"
	"net"
	"os"
	"path/filepath"
	"time"
)

// Lifetimes. A new server certificate is made at every start; an enclave renews
// its own in time.
const (
	enclaveLife = 30 * 24 * time.Hour
	rootLife    = 10 * 365 * 24 * time.Hour
	serverLife  = 397 * 24 * time.Hour
)

// Authority is a local certificate authority.
type Authority struct {
	cert *x509.Certificate
	key  *ecdsa.PrivateKey
}

// Open reads the authority kept in dir (ca.key, ca.pem), or makes one there.
func Open(dir string, now time.Time) (*Authority, error) {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, fmt.Errorf("opening local certificate authority: %w", err)
	}
	path := filepath.Join(dir, "ca.both.pem")
	text, err := os.ReadFile(path)
	if errors.Is(err, os.ErrNotExist) {
		if text, err = create(now); err == nil {
			err = os.WriteFile(path+".new", text, 0o600)
		}
		if err == nil {
			err = os.Rename(path+".new", path)
		}
	}
	if err != nil {
		return nil, fmt.Errorf("opening local certificate authority: %w", err)
	}
	pair, err := tls.X509KeyPair(text, text)
	if err != nil {
		return nil, fmt.Errorf("reading %s: %w", path, err)
	}
	key, ok := pair.PrivateKey.(*ecdsa.PrivateKey)
	if !ok {
		return nil, fmt.Errorf("reading %s: not an ECDSA key", path)
	}
	return &Authority{pair.Leaf, key}, nil
}

func create(now time.Time) ([]byte, error) {
	template := &x509.Certificate{
		Subject:  pkix.Name{CommonName: "cape dev on this machine"},
		NotAfter: now.Add(rootLife), IsCA: true, BasicConstraintsValid: true, MaxPathLenZero: true, KeyUsage: x509.KeyUsageCertSign,
	}
	der, key, err := issue(template, nil, now)
	if err != nil {
		return nil, err
	}
	keyDER, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		return nil, err
	}
	return append(encode(der), pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: keyDER})...), nil
}

func encode(der []byte) []byte {
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})
}

func issue(template *x509.Certificate, parent *Authority, now time.Time) ([]byte, *ecdsa.PrivateKey, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, nil, err
	}
	if parent == nil {
		parent = &Authority{template, key}
	}
	der, err := parent.sign(template, &key.PublicKey, now)
	return der, key, err
}

func (a *Authority) sign(template *x509.Certificate, public any, now time.Time) (der []byte, err error) {
	if template.SerialNumber, err = rand.Int(rand.Reader, new(big.Int).Lsh(big.NewInt(1), 127)); err != nil {
		return nil, err
	}
	template.NotBefore = now.Add(-time.Minute)
	return x509.CreateCertificate(rand.Reader, template, a.cert, public, a.key)
}

// PEM returns the authority's certificate.
func (a *Authority) PEM() []byte { return encode(a.cert.Raw) }

// forHost is a certificate for localhost, the loopback addresses and host.
func forHost(host string, end time.Time) *x509.Certificate {
	template := &x509.Certificate{
		Subject: pkix.Name{CommonName: "cape dev"}, NotAfter: end, KeyUsage: x509.KeyUsageDigitalSignature,
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth},
		DNSNames:    []string{"localhost"}, IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1), net.IPv6loopback},
	}
	if ip := net.ParseIP(host); ip != nil {
		template.IPAddresses = append(template.IPAddresses, ip)
	} else if host != "" {
		template.DNSNames = append(template.DNSNames, host)
	}
	return template
}

// Server returns a TLS configuration with a fresh certificate for localhost,
// the loopback addresses and host.
func (a *Authority) Server(host string, now time.Time) (*tls.Config, error) {
	der, key, err := issue(forHost(host, now.Add(serverLife)), a, now)
	if err != nil {
		return nil, fmt.Errorf("making a server certificate: %w", err)
	}
	return &tls.Config{
		MinVersion: tls.VersionTLS12, NextProtos: []string{"http/1.1"},
		Certificates: []tls.Certificate{{Certificate: [][]byte{der, a.cert.Raw}, PrivateKey: key}},
	}, nil
}

// ErrRequest: a certificate request cannot be read, or its key did not sign it.
var ErrRequest = errors.New("certificate request is not valid")

// Sign makes a certificate for the key of a request (PKCS#10, DER) and the names
// that Server would have, and returns it and the authority's as PEM. What names
// the request has does not matter.
func (a *Authority) Sign(request []byte, host string, now time.Time) ([]byte, error) {
	csr, err := x509.ParseCertificateRequest(request)
	if err == nil {
		err = csr.CheckSignature()
	}
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrRequest, err)
	}
	der, err := a.sign(forHost(host, now.Add(enclaveLife)), csr.PublicKey, now)
	if err != nil {
		return nil, fmt.Errorf("making a certificate: %w", err)
	}
	return append(encode(der), a.PEM()...), nil
}
