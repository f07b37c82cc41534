package settings_test

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/spf13/pflag"

	"github.com/cape-functions/cape/host/internal/settings"
)

func flags(register func(*pflag.FlagSet)) *pflag.FlagSet {
	f := pflag.NewFlagSet("test", pflag.ContinueOnError)
	register(f)
	f.String("config", "", "")
	return f
}

func file(t *testing.T, text string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "conf")
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

const goodServe = `
# a control plane
issuer = https://login.example.com/
role=arn:aws:iam::111122223333:role/cape
worker-token = /etc/cape/worker-token
   listen = :443
tls-cert = /etc/cape/tls.pem
tls-key = /etc/cape/tls.key
worker-listen = 10.0.0.1:7680
drain = 5m
verbose = true
`

func TestFileAndFlags(t *testing.T) {
	var s settings.Serve
	f := flags(s.Register)
	if err := f.Parse([]string{"--drain", "1s"}); err != nil {
		t.Fatal(err)
	}
	if err := settings.ReadFile(f, file(t, goodServe)); err != nil {
		t.Fatal(err)
	}
	if s.Listen != ":443" || s.Issuer != "https://login.example.com/" || !s.Verbose || s.Drain != time.Second || s.Database == "" {
		t.Errorf("%+v", s)
	}
	if err := s.Validate(); err != nil {
		t.Error(err)
	}
}

func TestRepeated(t *testing.T) {
	var w settings.Worker
	f := flags(w.Register)
	if err := settings.ReadFile(f, file(t, "allow-private = a.example.com\nallow-private = b.example.com\n")); err != nil {
		t.Fatal(err)
	}
	if strings.Join(w.Private, " ") != "a.example.com b.example.com" {
		t.Errorf("%q", w.Private)
	}
}

func TestFilesThatCannotBeUsed(t *testing.T) {
	for name, path := range map[string]string{
		"none":       filepath.Join(t.TempDir(), "none"),
		"unknown":    file(t, "lisen = :443\n"),
		"no value":   file(t, "listen =\n"),
		"no equals":  file(t, "listen :443\n"),
		"twice":      file(t, "listen = :1\nlisten = :2\n"),
		"not a bool": file(t, "verbose = perhaps\n"),
		"config":     file(t, "config = /etc/x\n"),
		"section":    file(t, "[serve]\nlisten = :1\n"),
		"too large":  file(t, strings.Repeat("# x\n", 80<<10)),
		"long line":  file(t, "listen = "+strings.Repeat("x", 300<<10)),
	} {
		var s settings.Serve
		if err := settings.ReadFile(flags(s.Register), path); !errors.Is(err, settings.ErrSettings) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestServe(t *testing.T) {
	for name, change := range map[string]func(*settings.Serve){
		"no issuer":                     func(s *settings.Serve) { s.Issuer = "" },
		"issuer over HTTP":              func(s *settings.Serve) { s.Issuer = "http://login.example.com" },
		"keys over HTTP":                func(s *settings.Serve) { s.IssuerKeys = "http://login.example.com/k" },
		"no role":                       func(s *settings.Serve) { s.Role = "" },
		"a user in the place of a role": func(s *settings.Serve) { s.Role = "arn:aws:iam::111122223333:user/x" },
		"no worker token":               func(s *settings.Serve) { s.WorkerToken = "" },
		"clients in the clear":          func(s *settings.Serve) { s.Cert, s.Key, s.WorkerListen = "", "", "127.0.0.1:7680" },
		"workers in the clear":          func(s *settings.Serve) { s.Cert, s.Key, s.PlainHTTP = "", "", true },
		"certificate without key":       func(s *settings.Serve) { s.Key = "" },
		"PostgreSQL":                    func(s *settings.Serve) { s.Database = "postgres://db/cape" },
		"S3":                            func(s *settings.Serve) { s.Blobs = "s3://bucket" },
		"address":                       func(s *settings.Serve) { s.Listen = "443" },
		"negative drain":                func(s *settings.Serve) { s.Drain = -time.Second },
		"negative number of clients":    func(s *settings.Serve) { s.PerClient = -1 },
		"format of the log":             func(s *settings.Serve) { s.Format = "xml" },
	} {
		var s settings.Serve
		if err := settings.ReadFile(flags(s.Register), file(t, goodServe)); err != nil {
			t.Fatal(err)
		}
		change(&s)
		if err := s.Validate(); !errors.Is(err, settings.ErrSettings) {
			t.Errorf("%s: %v", name, err)
		}
	}
	var s settings.Serve
	if err := settings.ReadFile(flags(s.Register), file(t, goodServe)); err != nil {
		t.Fatal(err)
	}
	s.Cert, s.Key, s.PlainHTTP, s.WorkerListen = "", "", true, "127.0.0.1:7680"
	if err := s.Validate(); err != nil {
		t.Errorf("behind a load balancer: %v", err)
	}
}

const goodWorker = `
control-plane = https://control.internal:7680
worker-token = /etc/cape/worker-token
name = w1
listen = :7690
address = 10.0.0.7:7690
`

func TestWorker(t *testing.T) {
	read := func() settings.Worker {
		var w settings.Worker
		if err := settings.ReadFile(flags(w.Register), file(t, goodWorker)); err != nil {
			t.Fatal(err)
		}
		return w
	}
	w := read()
	if err := w.Validate(); err != nil {
		t.Fatal(err)
	}
	whole := read()
	whole.Passed = settings.Passed{Listen: ":443", URL: "https://e.example.com", Certify: "/usr/local/bin/certify"}
	if err := whole.Validate(); err != nil {
		t.Error(err)
	}
	if w.Reach() != "10.0.0.7:7690" {
		t.Error(w.Reach())
	}
	for name, change := range map[string]func(*settings.Worker){
		"no control plane":               func(w *settings.Worker) { w.Control = "" },
		"token in the clear":             func(w *settings.Worker) { w.Control = "http://control.internal:7680" },
		"no token":                       func(w *settings.Worker) { w.WorkerToken = "" },
		"name":                           func(w *settings.Worker) { w.Name = "a b" },
		"no address":                     func(w *settings.Worker) { w.Address = "" },
		"every address":                  func(w *settings.Worker) { w.Address = "0.0.0.0:7690" },
		"public URL without certificate": func(w *settings.Worker) { w.URL = "https://w1.example.com" },
		"plain public URL":               func(w *settings.Worker) { w.URL, w.Cert, w.Key = "http://w1.example.com", "c", "k" },
		"kind":                           func(w *settings.Worker) { w.Enclave.Kind = "sgx" },
		"no enclave":                     func(w *settings.Worker) { w.Enclave.Count = 0 },
		"relative image":                 func(w *settings.Worker) { w.Enclave.Image = "cape.eif" },
		"memory":                         func(w *settings.Worker) { w.Enclave.Memory = 1 },
		"played AWS for Nitro enclaves":  func(w *settings.Worker) { w.Development.Dir = "/tmp/x" },
		"process enclaves with AWS":      func(w *settings.Worker) { w.Enclave.Kind = "process" },
		"more authorities with AWS":      func(w *settings.Worker) { w.Development.CA = "/tmp/x" },
		"metrics":                        func(w *settings.Worker) { w.Metrics = "9470" },
		"enclave's TLS without a name":   func(w *settings.Worker) { w.Passed = settings.Passed{Listen: ":443", Certify: "/bin/x"} },
		"a name for no enclave's TLS":    func(w *settings.Worker) { w.Passed = settings.Passed{URL: "https://e.example.com"} },
		"a plain name": func(w *settings.Worker) {
			w.Passed = settings.Passed{Listen: ":443", URL: "http://e.example.com", Certify: "/bin/x"}
		},
		"a program to be looked for": func(w *settings.Worker) {
			w.Passed = settings.Passed{Listen: ":443", URL: "https://e.example.com", Certify: "x"}
		},
	} {
		w := read()
		change(&w)
		if err := w.Validate(); !errors.Is(err, settings.ErrSettings) {
			t.Errorf("%s: %v", name, err)
		}
	}
}
