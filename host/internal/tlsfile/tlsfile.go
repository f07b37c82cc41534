// Package tlsfile is the TLS of the host's own listeners: a certificate from
// files, read again when they change, or one that this process made for itself.
// It protects the way between client and host; what is secret from the host is
// sealed to enclaves.
package tlsfile

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/hex"
	"errors"
	"fmt"
	"log/slog"
	"math/big"
	"os"
	"sync"
	"time"
)

// look is how often files are looked at.
const look = 10 * time.Second

// selfLife is how long a certificate that this process made is valid; who uses it
// compares its hash and no date.
const selfLife = 10 * 365 * 24 * time.Hour

// ErrCertificate: certificate or key cannot be used.
var ErrCertificate = errors.New("unusable TLS certificate")

// Certificate is a certificate in use. It is safe for concurrent use.
type Certificate struct {
	certFile, keyFile string
	log               *slog.Logger

	mu     sync.Mutex
	now    *tls.Certificate
	stamp  [2]time.Time
	looked time.Time
}

// Files reads a certificate (PEM, with intermediates) and its key, and again when
// they change. Errors wrap ErrCertificate.
func Files(certFile, keyFile string, log *slog.Logger) (*Certificate, error) {
	c := &Certificate{certFile: certFile, keyFile: keyFile, log: log}
	if err := c.load(); err != nil {
		return nil, err
	}
	return c, nil
}

// Own makes a certificate for this process alone.
func Own(name string) (*Certificate, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, err
	}
	serial, err := rand.Int(rand.Reader, new(big.Int).Lsh(big.NewInt(1), 126))
	if err != nil {
		return nil, err
	}
	template := &x509.Certificate{
		SerialNumber: serial, Subject: pkix.Name{CommonName: name}, DNSNames: []string{name},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(selfLife),
		KeyUsage: x509.KeyUsageDigitalSignature, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth},
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrCertificate, err)
	}
	return &Certificate{now: &tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key}}, nil
}

func (c *Certificate) load() error {
	var stamp [2]time.Time
	for i, path := range []string{c.certFile, c.keyFile} {
		info, err := os.Stat(path)
		if err != nil {
			return fmt.Errorf("%w: %w", ErrCertificate, err)
		}
		stamp[i] = info.ModTime()
	}
	c.looked = time.Now()
	if c.now != nil && stamp == c.stamp {
		return nil
	}
	pair, err := tls.LoadX509KeyPair(c.certFile, c.keyFile)
	if err != nil {
		return fmt.Errorf("%w: %w", ErrCertificate, err)
	}
	c.now, c.stamp = &pair, stamp
	return nil
}

// current returns the certificate, the last good one where files are half written.
func (c *Certificate) current() *tls.Certificate {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.certFile != "" && time.Since(c.looked) > look {
		if err := c.load(); err != nil {
			c.looked = time.Now()
			c.log.Error("reading the TLS certificate again", "error", err)
		}
	}
	return c.now
}

// Config is for a server of HTTP/1.1.
func (c *Certificate) Config() *tls.Config {
	return &tls.Config{
		MinVersion: tls.VersionTLS12, NextProtos: []string{"http/1.1"},
		GetCertificate: func(*tls.ClientHelloInfo) (*tls.Certificate, error) { return c.current(), nil },
	}
}

// Hash is the SHA-256 of the leaf's DER, lower hex.
func (c *Certificate) Hash() string {
	sum := sha256.Sum256(c.current().Certificate[0])
	return hex.EncodeToString(sum[:])
}
