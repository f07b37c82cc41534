package tlsfile

import (
	"crypto/ecdsa"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"encoding/hex"
	"encoding/pem"
	"errors"
	"io"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"testing"
	"time"
)

// shown is the hash of what a client sees.
func shown(t *testing.T, c *Certificate) string {
	t.Helper()
	l, err := tls.Listen("tcp", "127.0.0.1:0", c.Config())
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	go func() {
		conn, err := l.Accept()
		if err == nil {
			_, _ = io.Copy(io.Discard, conn)
			conn.Close()
		}
	}()
	d := tls.Dialer{NetDialer: &net.Dialer{Timeout: 5 * time.Second}, Config: &tls.Config{InsecureSkipVerify: true, NextProtos: []string{"h2", "http/1.1"}}}
	conn, err := d.DialContext(t.Context(), "tcp", l.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	state := conn.(*tls.Conn).ConnectionState()
	if state.NegotiatedProtocol != "http/1.1" {
		t.Errorf("protocol %q: sessions need HTTP/1.1", state.NegotiatedProtocol)
	}
	sum := sha256.Sum256(state.PeerCertificates[0].Raw)
	return hex.EncodeToString(sum[:])
}

// write puts a new pair into files.
func write(t *testing.T, cert, key string) {
	t.Helper()
	c, err := Own("test")
	if err != nil {
		t.Fatal(err)
	}
	der, err := x509.MarshalECPrivateKey(c.now.PrivateKey.(*ecdsa.PrivateKey))
	if err != nil {
		t.Fatal(err)
	}
	for path, block := range map[string]*pem.Block{cert: {Type: "CERTIFICATE", Bytes: c.now.Certificate[0]}, key: {Type: "EC PRIVATE KEY", Bytes: der}} {
		if err := os.WriteFile(path, pem.EncodeToMemory(block), 0o600); err != nil {
			t.Fatal(err)
		}
	}
}

func TestOwn(t *testing.T) {
	c, err := Own("worker-1")
	if err != nil {
		t.Fatal(err)
	}
	if got := shown(t, c); got != c.Hash() {
		t.Errorf("%s is shown, %s is told", got, c.Hash())
	}
}

func TestFilesAreReadAgain(t *testing.T) {
	dir := t.TempDir()
	cert, key := filepath.Join(dir, "cert.pem"), filepath.Join(dir, "key.pem")
	if _, err := Files(cert, key, slog.New(slog.DiscardHandler)); !errors.Is(err, ErrCertificate) {
		t.Fatalf("no files: %v", err)
	}
	write(t, cert, key)
	c, err := Files(cert, key, slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	first := c.Hash()
	if shown(t, c) != first {
		t.Error("another certificate is shown")
	}
	write(t, cert, key)
	later := time.Now().Add(time.Minute)
	for _, path := range []string{cert, key} {
		if err := os.Chtimes(path, later, later); err != nil {
			t.Fatal(err)
		}
	}
	c.looked = time.Time{}
	second := c.Hash()
	if second == first {
		t.Error("the new certificate was not read")
	}
	if err := os.WriteFile(key, []byte("half"), 0o600); err != nil {
		t.Fatal(err)
	}
	c.looked = time.Time{}
	if c.Hash() != second {
		t.Error("a key that is half written replaced a good one")
	}
}
