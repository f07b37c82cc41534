package worker_test

import (
	"bytes"
	"crypto/tls"
	"encoding/pem"
	"io"
	"net"
	"net/http"
	"os"
	"strings"
	"testing"

	"github.com/cape-functions/cape/core/wire"
)

// program writes a shell's script.
func (w *world) program(text string) string {
	w.t.Helper()
	if err := os.WriteFile(w.path("certify"), []byte("#!/bin/sh\n"+text), 0o755); err != nil {
		w.t.Fatal(err)
	}
	return w.path("certify")
}

// request asks for a certificate as an enclave does.
func (w *world) request(csr string) (status int, body []byte) {
	w.t.Helper()
	resp, err := w.launcher.Last().Link(wire.PortBoot).Post("http://host/v1/certificate", "", strings.NewReader(csr))
	if err != nil {
		w.t.Fatal(err)
	}
	defer resp.Body.Close()
	if body, err = io.ReadAll(resp.Body); err != nil {
		w.t.Fatal(err)
	}
	return resp.StatusCode, body
}

// upgrade asks for a session of v2 and leaves.
func (w *world) upgrade(url string) (status int, location string) {
	w.t.Helper()
	req, err := http.NewRequestWithContext(w.t.Context(), http.MethodGet, url, nil)
	if err != nil {
		w.t.Fatal(err)
	}
	req.Header = http.Header{"Connection": {"Upgrade"}, "Upgrade": {"websocket"}, "Sec-Websocket-Protocol": {wire.SubprotocolV2}}
	resp, err := (&http.Transport{TLSClientConfig: &tls.Config{InsecureSkipVerify: true}, DisableKeepAlives: true}).RoundTrip(req)
	if err != nil {
		w.t.Fatal(err)
	}
	resp.Body.Close()
	return resp.StatusCode, resp.Header.Get("Location")
}

func freeAddress(t *testing.T) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	return l.Addr().String()
}

// TestTLSThatEndsInTheEnclave: the operator's program gets the request and the name, enclaves get what it prints, and sessions
// are sent to the listener from the first certificate on. What comes there reaches an enclave as it is.
func TestTLSThatEndsInTheEnclave(t *testing.T) {
	w := newWorld(t)
	w.init()
	at := freeAddress(t)
	worker, _ := w.start(w.options("--enclave-listen", at, "--enclave-url", "https://e.example.com:8443", "--certify", w.program(`
echo "for $1"
cat`)))
	url := "https://" + worker + "/v1/run/a/b?x=1"
	if status, _ := w.upgrade(url); status != http.StatusSwitchingProtocols {
		t.Errorf("before there is a certificate: status %d", status)
	}
	status, chain := w.request("a request")
	rest, named := bytes.CutPrefix(chain, []byte("for e.example.com\n"))
	block, _ := pem.Decode(rest)
	if status != http.StatusOK || !named || block == nil || block.Type != "CERTIFICATE REQUEST" || string(block.Bytes) != "a request" {
		t.Fatalf("status %d, %q", status, chain)
	}
	status, location := w.upgrade(url)
	if status != http.StatusTemporaryRedirect || location != "https://e.example.com:8443/v1/run/a/b?x=1" {
		t.Errorf("with one: status %d to %q", status, location)
	}
	if status, body, _ := w.get(url); status != http.StatusOK || body != "enclave: /v1/run/a/b?x=1" {
		t.Errorf("no WebSocket: status %d, %q", status, body)
	}
	if status, body, _ := w.get("http://" + at + "/through"); status != http.StatusOK || body != "enclave: /through" {
		t.Errorf("through the listener: status %d, %q", status, body)
	}
}

// TestProgramsThatFail: whatever the program does, the enclave hears that there is no certificate.
func TestProgramsThatFail(t *testing.T) {
	w := newWorld(t)
	w.init()
	w.start(w.options("--enclave-listen", freeAddress(t), "--enclave-url", "https://e.example.com", "--certify", w.path("certify")))
	for name, script := range map[string]string{
		"fails":           "echo half; exit 1",
		"prints too much": "head -c 100000 /dev/zero",
	} {
		w.program(script)
		if status, body := w.request("a request"); status != http.StatusServiceUnavailable || bytes.Contains(body, []byte("half")) {
			t.Errorf("%s: status %d, %q", name, status, body)
		}
	}
	if err := os.Remove(w.path("certify")); err != nil {
		t.Fatal(err)
	}
	if status, _ := w.request("a request"); status != http.StatusServiceUnavailable {
		t.Errorf("is not there: status %d", status)
	}
}

func TestNoListenerNoCertificate(t *testing.T) {
	w := newWorld(t)
	w.init()
	w.start(w.options())
	if status, _ := w.request("a request"); status != http.StatusNotFound {
		t.Errorf("status %d", status)
	}
}
