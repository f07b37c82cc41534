package devserver

import (
	"bytes"
	"context"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/cape-functions/cape/core/wire"
	"github.com/cape-functions/cape/host/internal/kek"
	"github.com/cape-functions/cape/host/internal/launcher"
	"github.com/cape-functions/cape/host/internal/launcher/testkit"
)

func measured(value string) map[string]string {
	m := map[string]string{"HashAlgorithm": "Sha384 { ... }"}
	for i, pcr := range []string{"PCR0", "PCR1", "PCR2", "PCR8"} {
		sum := sha256.Sum256(fmt.Append(nil, value, i))
		m[pcr] = strings.Repeat(hex.EncodeToString(sum[:]), 2)[:96]
	}
	return m
}

func fakeLauncher() *testkit.Launcher {
	return &testkit.Launcher{Measurements: measured("a"), Session: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		io.WriteString(w, "enclave: "+r.RequestURI)
	})}
}

func options(dir string, l *testkit.Launcher) Options {
	return Options{
		DataDir: dir, Listen: "127.0.0.1:0", Pairs: -1, Log: slog.New(slog.DiscardHandler),
		NewLauncher: func(Parts) (launcher.Launcher, error) { return l, nil },
	}
}

// refused runs a platform that must not come up.
func refused(t *testing.T, opts Options) error {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	return Run(ctx, opts)
}

// running is a platform in the background.
type running struct {
	url  string
	stop func() error
}

func start(t *testing.T, opts Options) *running {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	ready, ended := make(chan string, 1), make(chan error, 1)
	opts.Ready = func(url string) { ready <- url }
	go func() { ended <- Run(ctx, opts) }()
	r := &running{}
	stopped := false
	r.stop = func() error {
		if stopped {
			return nil
		}
		stopped = true
		cancel()
		select {
		case err := <-ended:
			return err
		case <-time.After(5 * time.Second):
			return errors.New("it did not end within 5 s")
		}
	}
	t.Cleanup(func() {
		if err := r.stop(); err != nil {
			t.Error(err)
		}
	})
	select {
	case r.url = <-ready:
	case err := <-ended:
		stopped = true
		t.Fatalf("it did not start: %v", err)
	case <-time.After(30 * time.Second):
		t.Fatal("it did not start within 30 s")
	}
	return r
}

func get(t *testing.T, c *http.Client, url, token string) (int, string) {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), "GET", url, nil)
	if err != nil {
		t.Fatal(err)
	}
	if token != "" {
		req.Header.Set("Authorization", "Bearer "+token)
	}
	resp, err := c.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	return resp.StatusCode, string(b)
}

func readJSON(t *testing.T, path string, v any) {
	t.Helper()
	b, err := os.ReadFile(path)
	if err == nil {
		err = json.Unmarshal(b, v)
	}
	if err != nil {
		t.Fatal(err)
	}
}

func TestFirstStart(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "it's a \"dir\" $HOME é")
	l := fakeLauncher()
	p := start(t, options(dir, l))
	boots := l.Boots()
	if len(boots) != 2 || boots[0].Mode != wire.ModeKMSInit || boots[1].Mode != wire.ModeServe || boots[0].Init == nil || boots[1].Init != nil {
		t.Fatalf("%+v", boots)
	}
	config, err := wire.ParseConfig(boots[1].Config)
	if err != nil {
		t.Fatal(err)
	}
	if config.KMS == "" || string(boots[1].Birth) != "document" || len(config.Trust.Issuers) != 1 || boots[1].Dev == nil {
		t.Errorf("%+v", config)
	}
	for name, mode := range map[string]os.FileMode{
		"": 0o700, "config": 0o700, "config/auth": 0o600, "config/trust.json": 0o600, "config/account-key": 0o600, "cape.db": 0o600, "authority": 0o700, "identity": 0o700, "kms": 0o700, "blobs": 0o700, "run": 0o700,
		"lock": 0o600, "identity/token.key": 0o600, "identity/keyset.key": 0o600, "root.pem": 0o644, "env": 0o644, "client.json": 0o644,
	} {
		if info, err := os.Stat(filepath.Join(dir, name)); err != nil || info.Mode().Perm() != mode {
			t.Errorf("%s: %v, %v; want %v", name, info, err, mode)
		}
	}
	checkTrust(t, dir, p.url, config)
	checkSettings(t, dir, p.url)
	checkLogin(t, dir, p.url)
	if status, body := get(t, http.DefaultClient, p.url+"/v1/user/dev/key", ""); status != 200 || body != "enclave: /v1/user/dev/key" {
		t.Errorf("%d %q", status, body)
	}
	if status, body := get(t, http.DefaultClient, p.url+"/v1/releases", ""); status != 200 || !strings.Contains(body, measured("a")["PCR0"]) {
		t.Errorf("%d %q", status, body)
	}
}

type login struct {
	Access  string    `json:"access_token"`
	Type    string    `json:"token_type"`
	Refresh *string   `json:"refresh_token"`
	Expiry  time.Time `json:"expiry"`
	ID      string    `json:"id_token"`
}

// What anybody trusts must not change with a restart or an address.
func TestRestart(t *testing.T) {
	dir, l := t.TempDir(), fakeLauncher()
	first := start(t, options(dir, l))
	old := checkLogin(t, dir, first.url)
	if err := first.stop(); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(filepath.Join(dir, "run")); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("sockets are left: %v", err)
	}
	second := start(t, options(dir, l))
	boots := l.Boots()
	if len(boots) != 3 || !bytes.Equal(boots[1].Config, boots[2].Config) || !bytes.Equal(boots[1].Birth, boots[2].Birth) {
		t.Errorf("the second start boots otherwise than the first: %d boots", len(boots))
	}
	if status, _ := get(t, http.DefaultClient, second.url+"/v1/functions", old.Access); status != 200 {
		t.Errorf("yesterday's token: %d", status)
	}
	if got := trustOf(t, dir); len(got.Origins) != 1 || got.Origins[second.url] == nil {
		t.Errorf("%+v", got.Origins)
	}
}

func TestOneAtATime(t *testing.T) {
	dir, l := t.TempDir(), fakeLauncher()
	first := start(t, options(dir, l))
	if err := refused(t, options(dir, l)); !errors.Is(err, ErrLocked) {
		t.Errorf("a second platform on one directory: %v", err)
	}
	if status, _ := get(t, http.DefaultClient, first.url+"/readyz", ""); status != 200 {
		t.Errorf("the first is hurt: %d", status)
	}
	if err := first.stop(); err != nil {
		t.Fatal(err)
	}
	start(t, options(dir, l))
}

func TestEnclaveIsRestarted(t *testing.T) {
	dir, l := t.TempDir(), fakeLauncher()
	p := start(t, options(dir, l))
	l.Set(func(l *testkit.Launcher) { l.Err, l.Measurements = errors.New("not now"), measured("upgraded") })
	l.Last().End(errors.New("killed"))
	wait(t, "clients are not told", func() bool {
		status, body := get(t, http.DefaultClient, p.url+"/v1/user/dev/key", "")
		return status == 503 && strings.Contains(body, `"code":"unavailable"`)
	})
	if status, _ := get(t, http.DefaultClient, p.url+"/readyz", ""); status != 503 {
		t.Errorf("ready without an enclave: %d", status)
	}
	if status, _ := get(t, http.DefaultClient, p.url+"/healthz", ""); status != 200 {
		t.Errorf("not alive without an enclave: %d", status)
	}
	l.Set(func(l *testkit.Launcher) { l.Err = nil })
	wait(t, "no new enclave", func() bool {
		status, _ := get(t, http.DefaultClient, p.url+"/v1/user/dev/key", "")
		return status == 200
	})
	// The runtime on disk had changed: clients of this machine must believe the new one.
	if got := trustOf(t, dir).Origins[p.url].PCRs["0"]; len(got) != 1 || got[0] != measured("upgraded")["PCR0"] {
		t.Errorf("trusted: %v", got)
	}
}

func wait(t *testing.T, what string, ok func() bool) {
	t.Helper()
	for range 400 {
		if ok() {
			return
		}
		time.Sleep(25 * time.Millisecond)
	}
	t.Fatalf("waited too long: %s", what)
}

// A client that holds a session, and one that waits for an answer, must not
// keep the platform from ending.
func TestEndsWithOpenConnections(t *testing.T) {
	l := fakeLauncher()
	asked := make(chan struct{}, 1)
	l.Session = http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Header.Get("Upgrade") == "" {
			asked <- struct{}{}
			<-r.Context().Done()
			return
		}
		conn, rw, err := http.NewResponseController(w).Hijack()
		if err != nil {
			return
		}
		defer conn.Close()
		io.WriteString(conn, "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n")
		io.Copy(conn, rw)
	})
	p := start(t, options(t.TempDir(), l))
	address := strings.TrimPrefix(p.url, "http://")
	session, err := net.Dial("tcp", address)
	if err != nil {
		t.Fatal(err)
	}
	defer session.Close()
	io.WriteString(session, "GET /v1/deploy HTTP/1.1\r\nHost: h\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n")
	if _, err := session.Read(make([]byte, 12)); err != nil {
		t.Fatal(err)
	}
	waiting, err := net.Dial("tcp", address)
	if err != nil {
		t.Fatal(err)
	}
	defer waiting.Close()
	io.WriteString(waiting, "GET /v1/user/dev/key HTTP/1.1\r\nHost: h\r\n\r\n")
	<-asked
	begun := time.Now()
	if err := p.stop(); err != nil {
		t.Error(err)
	}
	t.Logf("ended in %v", time.Since(begun))
}

func TestUnfinishedDeploysAreSwept(t *testing.T) {
	dir, l := t.TempDir(), fakeLauncher()
	start(t, options(dir, l)).stop()
	orphan := filepath.Join(dir, "blobs", "fn", "aa", "aa00")
	if err := errors.Join(os.MkdirAll(filepath.Dir(orphan), 0o700), os.WriteFile(orphan, []byte("x"), 0o600)); err != nil {
		t.Fatal(err)
	}
	start(t, options(dir, l))
	if _, err := os.Stat(orphan); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("the orphan is still there: %v", err)
	}
}

func TestTLS(t *testing.T) {
	dir, l := t.TempDir(), fakeLauncher()
	opts := options(dir, l)
	opts.TLS, opts.Listen = true, "localhost:0"
	var pool *x509.CertPool
	for range 2 { // the authority is kept, the certificate is not
		p := start(t, opts)
		if pool == nil {
			text, err := os.ReadFile(filepath.Join(dir, "ca.pem"))
			if err != nil {
				t.Fatal(err)
			}
			pool = x509.NewCertPool()
			pool.AppendCertsFromPEM(text)
		}
		c := &http.Client{Transport: &http.Transport{TLSClientConfig: &tls.Config{RootCAs: pool}, DisableKeepAlives: true, ForceAttemptHTTP2: true}}
		_, port, _ := net.SplitHostPort(strings.TrimPrefix(p.url, "https://"))
		for _, host := range []string{"localhost", "127.0.0.1"} {
			if status, _ := get(t, c, "https://"+net.JoinHostPort(host, port)+"/readyz", ""); status != 200 {
				t.Errorf("%s: %d", host, status)
			}
		}
		env, err := os.ReadFile(filepath.Join(dir, "env"))
		if err != nil || !strings.Contains(string(env), "export CAPE_CA_CERT='"+filepath.Join(dir, "ca.pem")+"'") {
			t.Errorf("%s, %v", env, err)
		}
		var settings map[string]string
		readJSON(t, filepath.Join(dir, "client.json"), &settings)
		if settings["ca_cert"] != filepath.Join(dir, "ca.pem") {
			t.Errorf("%v", settings)
		}
		p.stop()
	}
}

func TestKeyIsMadeOnce(t *testing.T) {
	dir, l := t.TempDir(), fakeLauncher()
	l.Barren = true
	if _, err := InitKMS(t.Context(), options(dir, l)); !errors.Is(err, kek.ErrBarren) {
		t.Errorf("an enclave made no key: %v", err)
	}
	l.Barren = false
	arn, err := InitKMS(t.Context(), options(dir, l))
	if err != nil || arn == "" {
		t.Fatal(err)
	}
	if again, err := InitKMS(t.Context(), options(dir, l)); err != nil || again != arn {
		t.Errorf("%s, %v; want %s", again, err, arn)
	}
	if n := len(l.Boots()); n != 2 {
		t.Errorf("%d boots", n)
	}
	start(t, options(dir, l))
	if boots := l.Boots(); len(boots) != 3 || boots[2].Mode != wire.ModeServe {
		t.Errorf("%d boots", len(boots))
	}
}

func TestIssuerBelongsToTheKey(t *testing.T) {
	dir, l := t.TempDir(), fakeLauncher()
	start(t, options(dir, l)).stop()
	if err := os.RemoveAll(filepath.Join(dir, "identity")); err != nil {
		t.Fatal(err)
	}
	if err := refused(t, options(dir, l)); !errors.Is(err, ErrIdentity) {
		t.Errorf("%v", err)
	}
}

func TestFailures(t *testing.T) {
	cause := errors.New("cause")
	taken, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer taken.Close()
	for _, c := range []struct {
		name   string
		change func(*Options)
		want   error
	}{
		{"relative directory", func(o *Options) { o.DataDir = "x" }, ErrOptions},
		{"no launcher", func(o *Options) { o.NewLauncher = nil }, ErrOptions},
		{"bad address", func(o *Options) { o.Listen = "7676" }, ErrOptions},
		{"address in use", func(o *Options) { o.Listen = taken.Addr().String() }, syscall.EADDRINUSE},
		{"launcher fails", func(o *Options) { o.NewLauncher = func(Parts) (launcher.Launcher, error) { return nil, cause } }, cause},
		{"enclave fails", func(o *Options) {
			o.NewLauncher = func(Parts) (launcher.Launcher, error) { return &testkit.Launcher{Err: cause}, nil }
		}, cause},
	} {
		t.Run(c.name, func(t *testing.T) {
			opts := options(t.TempDir(), fakeLauncher())
			dir := opts.DataDir
			c.change(&opts)
			if err := refused(t, opts); !errors.Is(err, c.want) {
				t.Errorf("got %v", err)
			}
			start(t, options(dir, fakeLauncher())) // nothing is left in the way
		})
	}
}

func TestCanceledWhileStarting(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	dir := t.TempDir()
	if err := Run(ctx, options(dir, fakeLauncher())); !errors.Is(err, context.Canceled) {
		t.Errorf("%v", err)
	}
	start(t, options(dir, fakeLauncher()))
}
