package boot_test

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"math/big"
	"net"
	"net/http"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/coder/websocket"

	"github.com/cape-functions/cape/core/attest/nitro"
	"github.com/cape-functions/cape/core/seal"
	"github.com/cape-functions/cape/core/wire"
	"github.com/cape-functions/cape/enclave/internal/boot/event"
)

// authority signs certificate requests, as the host has it done.
type authority struct {
	t    *testing.T
	cert *x509.Certificate
	key  *ecdsa.PrivateKey
	pool *x509.CertPool
}

func newAuthority(t *testing.T) *authority {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	a := &authority{t: t, key: key, pool: x509.NewCertPool()}
	a.cert = &x509.Certificate{SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "ca"}, NotBefore: time.Now().Add(-time.Minute), NotAfter: time.Now().Add(time.Hour),
		IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign}
	der, err := x509.CreateCertificate(rand.Reader, a.cert, a.cert, &key.PublicKey, key)
	if err == nil {
		a.cert, err = x509.ParseCertificate(der)
	}
	if err != nil {
		t.Fatal(err)
	}
	a.pool.AddCert(a.cert)
	return a
}

// chain is a certificate for a public key and the authority's, as PEM.
func (a *authority) chain(public any, life time.Duration) []byte {
	leaf := &x509.Certificate{SerialNumber: big.NewInt(2), DNSNames: []string{"enclave"}, NotBefore: time.Now().Add(-time.Minute), NotAfter: time.Now().Add(life), KeyUsage: x509.KeyUsageDigitalSignature}
	der, err := x509.CreateCertificate(rand.Reader, leaf, a.cert, public, a.key)
	if err != nil {
		a.t.Error(err)
	}
	var out []byte
	for _, c := range [][]byte{der, a.cert.Raw} {
		out = append(out, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: c})...)
	}
	return out
}

func (a *authority) sign(rw http.ResponseWriter, csr []byte) {
	request, err := x509.ParseCertificateRequest(csr)
	if err == nil {
		err = request.CheckSignature()
	}
	if err != nil || len(csr) > wire.MaxCSR {
		a.t.Errorf("a request of %d bytes: %v", len(csr), err)
		return
	}
	_, _ = rw.Write(a.chain(request.PublicKey, time.Hour))
}

// claim asks for a v2 session over a client and returns the user data of its document.
func claim(t *testing.T, c *http.Client, url string) *wire.SessionClaim {
	t.Helper()
	ws, _, err := websocket.Dial(t.Context(), url+"/v1/key", &websocket.DialOptions{HTTPClient: c, Subprotocols: []string{wire.SubprotocolV2}})
	if err != nil {
		t.Fatal(err)
	}
	defer ws.CloseNow()
	ws.SetReadLimit(wire.MaxAttest)
	caller, err := seal.NewCaller("/v1/key")
	if err == nil {
		err = ws.Write(t.Context(), websocket.MessageBinary, caller.Hello())
	}
	if err != nil {
		t.Fatal(err)
	}
	_, frame, err := ws.Read(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	answer, err := caller.Receive(frame)
	if err != nil {
		t.Fatal(err)
	}
	doc, err := nitro.Parse(answer.Document)
	if err != nil {
		t.Fatal(err)
	}
	got, err := wire.ParseSessionClaim(doc.Document.UserData)
	if err != nil {
		t.Fatal(err)
	}
	return got
}

// tlsClient connects to the port where TLS ends in the runtime; peer is told whom it met.
func (w *world) tlsClient(a *authority, peer func(*x509.Certificate)) *http.Client {
	return &http.Client{Transport: &http.Transport{DisableKeepAlives: true,
		DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) { return w.net.Dial(ctx, wire.PortSessionTLS) },
		TLSClientConfig: &tls.Config{RootCAs: a.pool, ServerName: "enclave", VerifyConnection: func(s tls.ConnectionState) error {
			peer(s.PeerCertificates[0])
			return nil
		}},
	}}
}

// TestTLSEndsInside: the runtime serves by TLS under a key of its own, documents on such a
// connection name the key, documents on others name none.
func TestTLSEndsInside(t *testing.T) {
	w, a := newWorld(t), newAuthority(t)
	w.certify = a.sign
	w.born()
	w.message(wire.ModeServe)
	stop := w.start()
	var met *x509.Certificate
	got := claim(t, w.tlsClient(a, func(c *x509.Certificate) { met = c }), "wss://enclave")
	if met == nil {
		t.Fatal("the connection was no TLS connection")
	}
	if key := sha256.Sum256(met.RawSubjectPublicKeyInfo); !bytes.Equal(got.TLS, key[:]) {
		t.Errorf("the document names the key %x, the connection has %x", got.TLS, key)
	}
	if got := claim(t, w.http(), "ws://enclave"); got.TLS != nil {
		t.Errorf("a document on a connection without TLS names the key %x", got.TLS)
	}
	if err := stop(); err != nil {
		t.Errorf("stopping: %v", err)
	}
	if _, err := w.net.Dial(t.Context(), wire.PortSessionTLS); err == nil {
		t.Error("the TLS port is open after the end")
	}
	w.start()
	first := met
	claim(t, w.tlsClient(a, func(c *x509.Certificate) { met = c }), "wss://enclave")
	if first.PublicKey.(*ecdsa.PublicKey).Equal(met.PublicKey) {
		t.Error("another runtime has the same key: it was kept somewhere")
	}
}

// TestCertificatesThatAreRefused: whatever the host answers, the runtime serves, but not by
// TLS under a key that is not its own.
func TestCertificatesThatAreRefused(t *testing.T) {
	a := newAuthority(t)
	for _, c := range []struct {
		name    string
		certify func(http.ResponseWriter, []byte)
		logged  bool
	}{
		{"no such route", nil, false},
		{"an error", func(rw http.ResponseWriter, _ []byte) { rw.WriteHeader(http.StatusServiceUnavailable) }, true},
		{"another key", func(rw http.ResponseWriter, _ []byte) { _, _ = rw.Write(a.chain(&a.key.PublicKey, time.Hour)) }, true},
		{"garbage", func(rw http.ResponseWriter, _ []byte) { _, _ = rw.Write([]byte("hello")) }, true},
		{"no certificate inside", func(rw http.ResponseWriter, _ []byte) {
			_ = pem.Encode(rw, &pem.Block{Type: "CERTIFICATE", Bytes: []byte("x")})
		}, true},
		{"too long", func(rw http.ResponseWriter, csr []byte) {
			a.sign(rw, csr)
			_, _ = rw.Write(make([]byte, wire.MaxCertificates))
		}, true},
		{"too many", func(rw http.ResponseWriter, csr []byte) {
			for range 3 {
				a.sign(rw, csr)
			}
		}, true},
	} {
		t.Run(c.name, func(t *testing.T) {
			w := newWorld(t)
			w.certify = c.certify
			w.born()
			w.message(wire.ModeServe)
			w.start()
			if got := claim(t, w.http(), "ws://enclave"); got.TLS != nil {
				t.Error("a document names a TLS key")
			}
			if conn, err := w.net.Dial(t.Context(), wire.PortSessionTLS); err == nil {
				conn.Close()
				t.Error("it serves by TLS")
			}
			for end := time.Now().Add(5 * time.Second); c.logged && time.Now().Before(end) && !strings.Contains(w.logs.String(), event.TLSFailed); {
				time.Sleep(5 * time.Millisecond)
			}
			if strings.Contains(w.logs.String(), event.TLSFailed) != c.logged {
				t.Errorf("the log:\n%s", w.logs)
			}
		})
	}
}

// TestCertificatesAreRenewed: one that ends soon is replaced while the runtime serves.
func TestCertificatesAreRenewed(t *testing.T) {
	if testing.Short() {
		t.Skip("takes ten seconds: the least time between two certificates")
	}
	t.Parallel()
	w, a := newWorld(t), newAuthority(t)
	var made atomic.Int32
	w.certify = func(rw http.ResponseWriter, csr []byte) {
		request, err := x509.ParseCertificateRequest(csr)
		if err != nil {
			t.Error(err)
			return
		}
		life := time.Hour
		if made.Add(1) == 1 {
			life = 5 * time.Second
		}
		_, _ = rw.Write(a.chain(request.PublicKey, life))
	}
	w.born()
	w.message(wire.ModeServe)
	w.start()
	var met *x509.Certificate
	ask := func() *x509.Certificate {
		claim(t, w.tlsClient(a, func(c *x509.Certificate) { met = c }), "wss://enclave")
		return met
	}
	first := ask()
	for end := time.Now().Add(30 * time.Second); made.Load() < 2; time.Sleep(50 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatal("the certificate is not renewed")
		}
	}
	if second := ask(); !second.NotAfter.After(first.NotAfter) || !second.PublicKey.(*ecdsa.PublicKey).Equal(first.PublicKey) {
		t.Errorf("after %s came one until %s", first.NotAfter, second.NotAfter)
	}
}
