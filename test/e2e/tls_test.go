package e2e

import (
	"bufio"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"io"
	"math/big"
	"net"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/cape-functions/cape/test/platform"
)

// localRoots is the platform's local CA.
func localRoots(t *testing.T, p *platform.Platform) *x509.CertPool {
	t.Helper()
	text, err := os.ReadFile(filepath.Join(p.Dir, "ca.pem"))
	if err != nil {
		t.Fatal(err)
	}
	pool := x509.NewCertPool()
	if !pool.AppendCertsFromPEM(text) {
		t.Fatal("ca.pem holds no certificate")
	}
	return pool
}

// upgrade asks the first listener for a session and returns status and Location.
func upgrade(t *testing.T, p *platform.Platform, path string, headers ...string) (int, string) {
	t.Helper()
	conn, err := tls.Dial("tcp", strings.TrimPrefix(p.URL, "https://"), &tls.Config{RootCAs: localRoots(t, p)})
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	fmt.Fprintf(conn, "GET %s HTTP/1.1\r\nHost: %s\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n%s\r\n\r\n",
		path, strings.TrimPrefix(p.URL, "https://"), strings.Join(headers, "\r\n"))
	resp, err := http.ReadResponse(bufio.NewReader(conn), nil)
	if err != nil {
		t.Fatal(err)
	}
	return resp.StatusCode, resp.Header.Get("Location")
}

// second is the address of the listener whose TLS ends in the enclave.
func second(t *testing.T, p *platform.Platform) string {
	t.Helper()
	status, location := upgrade(t, p, "/v1/key?a=b", "Sec-WebSocket-Protocol: cape.v2")
	u, err := url.Parse(location)
	if err != nil || status != http.StatusTemporaryRedirect || u.Scheme != "https" || u.Hostname() != "127.0.0.1" || u.RequestURI() != "/v1/key?a=b" {
		t.Fatalf("status %d, location %q, %v", status, location, err)
	}
	return u.Host
}

func TestTLSEndsInTheEnclave(t *testing.T) {
	p := start(t, t.TempDir(), "--tls", "enclave")
	id := p.Deploy(function(t, "echo", app("def cape_handler(d): return d\n")))
	if got := p.Must("run", id, "hello"); got != "hello\n" {
		t.Errorf("%q", got)
	}
	if !strings.Contains(p.Log.String(), "status=307") {
		t.Error("our client was not sent to the enclave's listener")
	}
	address := second(t, p)
	stays := "Sec-WebSocket-Protocol: cape.runtime, " + p.Token()
	if status, _ := upgrade(t, p, "/v1/key", stays); status != http.StatusSwitchingProtocols {
		t.Errorf("a client of protocol v1: status %d", status)
	}
	if status, _ := upgrade(t, p, "/v1/key", "Sec-WebSocket-Protocol: cape.v2", "Origin: https://app.example"); status != http.StatusSwitchingProtocols {
		t.Errorf("a browser: status %d", status)
	}
	keys := map[string]any{}
	for name, at := range map[string]string{"first": strings.TrimPrefix(p.URL, "https://"), "second": address} {
		conn, err := tls.Dial("tcp", at, &tls.Config{RootCAs: localRoots(t, p)})
		if err != nil {
			t.Fatal(name, err)
		}
		keys[name] = conn.ConnectionState().PeerCertificates[0].PublicKey
		conn.Close()
	}
	if keys["first"].(*ecdsa.PublicKey).Equal(keys["second"]) {
		t.Error("both listeners have one key: that of the host")
	}
	if r := p.Cape("", "list", "-o", "json"); r.Code != 0 || !strings.Contains(r.Out, id) {
		t.Errorf("plain routes: %+v", r)
	}
}

// relay accepts connections and passes what is said on to address. With a
// configuration it ends TLS itself on the way, as a host would that wants to listen.
func relay(t *testing.T, address string, roots *x509.CertPool, config *tls.Config) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	if config != nil {
		l = tls.NewListener(l, config)
	}
	t.Cleanup(func() { l.Close() })
	dial := func() (net.Conn, error) {
		if config == nil {
			return net.Dial("tcp", address)
		}
		return tls.Dial("tcp", address, &tls.Config{RootCAs: roots, NextProtos: []string{"http/1.1"}})
	}
	go func() {
		for {
			in, err := l.Accept()
			if err != nil {
				return
			}
			go func() {
				defer in.Close()
				out, err := dial()
				if err != nil {
					return
				}
				go func() { io.Copy(out, in); out.Close() }()
				io.Copy(in, out)
			}()
		}
	}()
	return "https://" + l.Addr().String()
}

// minted is a server certificate under the platform's CA, whose key the host has.
func minted(t *testing.T, p *platform.Platform) *tls.Config {
	t.Helper()
	ca, err := tls.LoadX509KeyPair(filepath.Join(p.Dir, "tls", "ca.both.pem"), filepath.Join(p.Dir, "tls", "ca.both.pem"))
	if err != nil {
		t.Fatal(err)
	}
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{SerialNumber: big.NewInt(7), NotBefore: time.Now().Add(-time.Minute), NotAfter: time.Now().Add(time.Hour),
		IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)}, KeyUsage: x509.KeyUsageDigitalSignature}
	der, err := x509.CreateCertificate(rand.Reader, template, ca.Leaf, &key.PublicKey, ca.PrivateKey)
	if err != nil {
		t.Fatal(err)
	}
	return &tls.Config{Certificates: []tls.Certificate{{Certificate: [][]byte{der}, PrivateKey: key}}, NextProtos: []string{"http/1.1"}}
}

// TestHostEndsTLSItself: a host with a perfectly valid certificate that ends TLS
// before the enclave is found out, and nothing is sent. The same relay without
// that is no obstacle.
func TestHostEndsTLSItself(t *testing.T) {
	p := start(t, t.TempDir(), "--tls", "enclave")
	id := p.Deploy(function(t, "echo", app("def cape_handler(d): return d\n")))
	roots, address := localRoots(t, p), second(t, p)
	run := func(at string) platform.Result {
		env := append(p.Env(), "CAPE_ENCLAVE_HOST="+at, "CAPE_ROOT_CERT="+filepath.Join(p.Dir, "root.pem"))
		return p.CapeEnv(env, "", "run", id, "hello", "--trust-first-use")
	}
	if r := run(relay(t, address, roots, nil)); r.Code != 0 || r.Out != "hello\n" {
		t.Errorf("through a relay that carries bytes: %+v", r)
	}
	if r := run(relay(t, address, roots, minted(t, p))); r.Code != 1 || r.Out != "" || !strings.Contains(r.Err, "TLS") {
		t.Errorf("through a relay that ends TLS: %+v", r)
	}
}

// TestResultsAreHiddenByTLS: over the enclave's listener even a client of protocol
// v1, whose results are not sealed, leaves nothing of them on the host.
func TestResultsAreHiddenByTLS(t *testing.T) {
	dir := t.TempDir()
	p := start(t, dir, "--tls", "enclave")
	result := newCanary(t, "result")
	id := p.Deploy(function(t, "tell", app("def cape_handler(d): return '"+result.text+"'\n")))
	env := append(p.Env(), "CAPE_ENCLAVE_HOST=https://"+second(t, p), "CAPE_ROOT_CERT="+filepath.Join(p.Dir, "root.pem"))
	for range 3 {
		if r := p.CapeEnv(env, "", "run", id, "x", "--protocol", "v1", "--trust-first-use"); r.Code != 0 || r.Out != result.text+"\n" {
			t.Fatalf("%+v", r)
		}
	}
	s := newSearch(t, result)
	s.memory(p.Cmd.Process.Pid)
	s.files(dir)
	s.in("the log", []byte(p.Log.String()))
}
