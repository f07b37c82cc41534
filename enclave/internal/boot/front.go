package boot

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"sync/atomic"
	"time"

	"github.com/cape-functions/cape/core/wire"
	"github.com/cape-functions/cape/enclave/internal/boot/event"
	"github.com/cape-functions/cape/enclave/internal/session"
	"github.com/cape-functions/cape/vsock"
)

const (
	// firstCertificate bounds the wait for a certificate at boot.
	firstCertificate = 5 * time.Second
	// certificateRetry is the wait after a host that made no certificate.
	certificateRetry = 10 * time.Second
	// maxCertificates bounds a chain.
	maxCertificates = 5
)

// errNoTLS: the host passes no TLS through to the enclave.
var errNoTLS = errors.New("the host passes no TLS through")

// front is where TLS ends inside the enclave. Its key is made at boot and never leaves; the
// host has a certificate made for it, which proves nothing: documents name the key.
type front struct {
	network vsock.Network
	now     func() time.Time
	key     *ecdsa.PrivateKey
	spki    [32]byte
	csr     []byte
	// listener is nil until the host made a first certificate.
	listener net.Listener
	chain    atomic.Pointer[tls.Certificate]
}

func newFront(n vsock.Network, now func() time.Time) (*front, error) {
	f := &front{network: n, now: now}
	var err error
	if f.key, err = ecdsa.GenerateKey(elliptic.P256(), rand.Reader); err != nil {
		return nil, fmt.Errorf("making a TLS key: %w", err)
	}
	spki, err := x509.MarshalPKIXPublicKey(&f.key.PublicKey)
	if err != nil {
		return nil, fmt.Errorf("making a TLS key: %w", err)
	}
	f.spki = sha256.Sum256(spki)
	// The names are the host's to choose: it knows what it is called.
	if f.csr, err = x509.CreateCertificateRequest(rand.Reader, &x509.CertificateRequest{}, f.key); err != nil {
		return nil, fmt.Errorf("making a certificate request: %w", err)
	}
	return f, nil
}

// hash is SHA-256 of the key's SPKI, for documents.
func (f *front) hash() []byte { return f.spki[:] }

// open gets the first certificate and listens, so that both doors are there at once.
func (f *front) open(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, firstCertificate)
	defer cancel()
	err := f.renew(ctx)
	if err == nil {
		f.listener, err = f.network.Listen(wire.PortSessionTLS)
	}
	return err
}

// serve serves by TLS until ctx ends. Without a host that passes TLS through it does nothing.
func (f *front) serve(ctx context.Context, srv *session.Server, log *slog.Logger) error {
	for f.listener == nil {
		err := f.open(ctx)
		if errors.Is(err, errNoTLS) || ctx.Err() != nil {
			return nil
		}
		if err != nil {
			log.Warn(event.TLSFailed)
			pause(ctx, certificateRetry)
		}
	}
	go f.keep(ctx, log)
	log.Info(event.TLSServing)
	if err := srv.ServeTLS(ctx, f.listener, f.config()); ctx.Err() == nil {
		return at("tls", err)
	}
	return nil
}

// keep renews the certificate when two thirds of its time have passed.
func (f *front) keep(ctx context.Context, log *slog.Logger) {
	for wait := f.left(); pause(ctx, wait); {
		if wait = certificateRetry; f.renew(ctx) == nil {
			wait = f.left()
		} else if ctx.Err() == nil {
			log.Warn(event.TLSFailed)
		}
	}
}

// left is how long the certificate need not be renewed.
func (f *front) left() time.Duration {
	leaf := f.chain.Load().Leaf
	due := leaf.NotAfter.Add(-leaf.NotAfter.Sub(leaf.NotBefore) / 3)
	return max(due.Sub(f.now()), certificateRetry)
}

// pause reports whether ctx goes on after it.
func pause(ctx context.Context, d time.Duration) bool {
	select {
	case <-ctx.Done():
		return false
	case <-time.After(d):
		return true
	}
}

func (f *front) config() *tls.Config {
	return &tls.Config{
		MinVersion: tls.VersionTLS13, NextProtos: []string{"http/1.1"}, SessionTicketsDisabled: true,
		GetCertificate: func(*tls.ClientHelloInfo) (*tls.Certificate, error) { return f.chain.Load(), nil },
	}
}

// renew has the host make a certificate for the key.
func (f *front) renew(ctx context.Context) error {
	data, err := exchange(ctx, client(f.network, wire.PortBoot), http.MethodPost, "/v1/certificate", f.csr, wire.MaxCertificates)
	var status statusError
	if errors.As(err, &status) && status == http.StatusNotFound {
		return errNoTLS
	}
	if err != nil {
		return fmt.Errorf("asking for a certificate: %w", err)
	}
	c := &tls.Certificate{PrivateKey: f.key}
	for block, rest := pem.Decode(data); block != nil; block, rest = pem.Decode(rest) {
		c.Certificate = append(c.Certificate, block.Bytes)
	}
	if n := len(c.Certificate); n == 0 || n > maxCertificates {
		return fmt.Errorf("%w: a chain of %d certificates", ErrHost, n)
	}
	if c.Leaf, err = x509.ParseCertificate(c.Certificate[0]); err != nil {
		return fmt.Errorf("%w: %w", ErrHost, err)
	}
	if !f.key.PublicKey.Equal(c.Leaf.PublicKey) {
		return fmt.Errorf("%w: a certificate of another key", ErrHost)
	}
	f.chain.Store(c)
	return nil
}
