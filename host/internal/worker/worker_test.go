package worker_test

import (
	"bufio"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/go-jose/go-jose/v4"
	"github.com/spf13/pflag"

	"github.com/cape-functions/cape/core/wire"
	"github.com/cape-functions/cape/host/internal/control"
	"github.com/cape-functions/cape/host/internal/devcloud"
	"github.com/cape-functions/cape/host/internal/kek"
	"github.com/cape-functions/cape/host/internal/launcher"
	"github.com/cape-functions/cape/host/internal/launcher/testkit"
	"github.com/cape-functions/cape/host/internal/settings"
	"github.com/cape-functions/cape/host/internal/worker"
)

// world is a control plane, and what workers of it are made of.
type world struct {
	t        *testing.T
	dir      string
	clients  string // URL
	workers  string // URL
	launcher *testkit.Launcher
	log      *slog.Logger
}

func register(f func(*pflag.FlagSet), args ...string) error {
	flags := pflag.NewFlagSet("test", pflag.ContinueOnError)
	f(flags)
	return flags.Parse(args)
}

// background runs f until the end of the test, or until the returned function is
// called, which returns f's error.
func background(t *testing.T, f func(context.Context) error) (stop func() error) {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- f(ctx) }()
	stop = func() error {
		cancel()
		select {
		case err := <-ended:
			ended <- err
			return err
		case <-time.After(30 * time.Second):
			return errors.New("it did not end")
		}
	}
	t.Cleanup(func() {
		if err := stop(); err != nil {
			t.Error(err)
		}
	})
	return stop
}

func newWorld(t *testing.T) *world {
	t.Helper()
	w := &world{t: t, dir: t.TempDir(), log: slog.New(slog.DiscardHandler), launcher: &testkit.Launcher{
		Measurements: map[string]string{"PCR0": strings.Repeat("ab", 48)},
		Session:      http.HandlerFunc(session),
	}}
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	issuer := httptest.NewTLSServer(http.HandlerFunc(func(rw http.ResponseWriter, _ *http.Request) {
		_ = json.NewEncoder(rw).Encode(jose.JSONWebKeySet{Keys: []jose.JSONWebKey{{Key: key.Public(), KeyID: "k", Algorithm: "ES256", Use: "sig"}}})
	}))
	t.Cleanup(issuer.Close)
	if err := os.WriteFile(w.path("token"), []byte(strings.Repeat("t", 40)), 0o600); err != nil {
		t.Fatal(err)
	}
	var s settings.Serve
	err = register(s.Register, "--listen", "127.0.0.1:0", "--worker-listen", "127.0.0.1:0", "--database", "sqlite://"+w.path("cape.db"), "--blobs", "file://"+w.path("blobs"),
		"--issuer", issuer.URL, "--issuer-keys", issuer.URL+"/keys", "--role", "arn:aws:iam::111122223333:role/cape", "--worker-token", w.path("token"), "--drain-notice", "0s", "--drain", "5s")
	if err != nil {
		t.Fatal(err)
	}
	ready := make(chan [2]net.Addr, 1)
	background(t, func(ctx context.Context) error {
		return control.Run(ctx, control.Options{Settings: s, Log: w.log, HTTP: issuer.Client(), Ready: func(c, ws net.Addr) { ready <- [2]net.Addr{c, ws} }})
	})
	select {
	case at := <-ready:
		w.clients, w.workers = "http://"+at[0].String(), "http://"+at[1].String()
	case <-time.After(30 * time.Second):
		t.Fatal("the control plane did not start")
	}
	return w
}

// session plays a runtime: it echoes over a switched protocol, or tells who it is.
func session(rw http.ResponseWriter, r *http.Request) {
	if r.Header.Get("Upgrade") == "" {
		_, _ = io.WriteString(rw, "enclave: "+r.RequestURI)
		return
	}
	conn, buf, err := http.NewResponseController(rw).Hijack()
	if err != nil {
		return
	}
	defer conn.Close()
	_, _ = io.WriteString(conn, "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n")
	_, _ = io.Copy(conn, buf)
}

func (w *world) path(name string) string { return filepath.Join(w.dir, name) }

func (w *world) options(more ...string) worker.Options {
	w.t.Helper()
	var s settings.Worker
	err := register(s.Register, append([]string{"--control-plane", w.workers, "--worker-token", w.path("token"), "--listen", "127.0.0.1:0", "--name", "w1",
		"--region", "eu-west-1", "--drain", "5s"}, more...)...)
	if err != nil {
		w.t.Fatal(err)
	}
	return worker.Options{Settings: s, Log: w.log, Launcher: func(context.Context, *devcloud.Cloud) (launcher.Launcher, func() error, error) {
		return w.launcher, nil, nil
	}}
}

func (w *world) init() {
	w.t.Helper()
	arn, err := worker.Init(w.t.Context(), w.options(), wire.KEKRequest{Admins: []string{}, PCR0: [][]byte{}, PCR8: [][]byte{}})
	if err != nil || !strings.HasPrefix(arn, "arn:") {
		w.t.Fatalf("%q, %v", arn, err)
	}
}

// start runs a worker and returns its address.
func (w *world) start(opts worker.Options) (address string, stop func() error) {
	w.t.Helper()
	ready := make(chan net.Addr, 1)
	opts.Ready = func(a net.Addr) { ready <- a }
	stop = background(w.t, func(ctx context.Context) error { return worker.Run(ctx, opts) })
	select {
	case a := <-ready:
		return a.String(), stop
	case <-time.After(30 * time.Second):
		w.t.Fatal("the worker was not ready")
		return "", nil
	}
}

func (w *world) get(url string, header ...string) (status int, body string, h http.Header) {
	w.t.Helper()
	req, err := http.NewRequestWithContext(w.t.Context(), http.MethodGet, url, nil)
	if err != nil {
		w.t.Fatal(err)
	}
	for i := 0; i+1 < len(header); i += 2 {
		req.Header.Set(header[i], header[i+1])
	}
	c := &http.Client{
		Transport:     &http.Transport{TLSClientConfig: &tls.Config{InsecureSkipVerify: true}, DisableKeepAlives: true},
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}
	resp, err := c.Do(req)
	if err != nil {
		return 0, err.Error(), nil
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	if err != nil {
		w.t.Fatal(err)
	}
	return resp.StatusCode, string(b), resp.Header
}

func (w *world) eventually(what string, ok func() bool) {
	w.t.Helper()
	for end := time.Now().Add(20 * time.Second); !ok(); time.Sleep(20 * time.Millisecond) {
		if time.Now().After(end) {
			w.t.Fatal(what)
		}
	}
}

func (w *world) ready() bool {
	status, _, _ := w.get(w.clients + "/readyz")
	return status == http.StatusOK
}

func TestTheKeyIsMadeOnce(t *testing.T) {
	w := newWorld(t)
	w.init()
	boots := w.launcher.Boots()
	if len(boots) != 1 || boots[0].Mode != wire.ModeKMSInit || boots[0].Dev != nil || boots[0].Routes["kms.eu-west-1.amazonaws.com:443"] != wire.PortProxyBase ||
		boots[0].Routes["sts.eu-west-1.amazonaws.com:443"] == 0 || len(boots[0].Routes) != 3 {
		t.Errorf("%+v", boots)
	}
	if _, err := worker.Init(t.Context(), w.options(), wire.KEKRequest{}); !errors.Is(err, kek.ErrExists) {
		t.Errorf("a second key: %v", err)
	}
	if len(w.launcher.Boots()) != 1 {
		t.Error("an enclave was started to make a second key")
	}
}

func TestABarrenEnclave(t *testing.T) {
	w := newWorld(t)
	w.launcher.Barren = true
	if _, err := worker.Init(t.Context(), w.options(), wire.KEKRequest{Admins: []string{}, PCR0: [][]byte{}, PCR8: [][]byte{}}); !errors.Is(err, kek.ErrBarren) {
		t.Errorf("%v", err)
	}
}

func TestSessionsReachEnclaves(t *testing.T) {
	w := newWorld(t)
	w.init()
	address, stop := w.start(w.options("--enclaves", "2"))
	w.eventually("the control plane does not see the worker", w.ready)
	if status, body, _ := w.get(w.clients + "/v1/user/bob/key"); status != 200 || body != "enclave: /v1/user/bob/key" {
		t.Errorf("%d %q", status, body)
	}
	if status, body, _ := w.get("https://" + address + "/v1/user/bob/key"); status != 200 || body != "enclave: /v1/user/bob/key" {
		t.Errorf("by the worker itself: %d %q", status, body)
	}
	for path, want := range map[string]int{"/healthz": 200, "/readyz": 200, "/v1/functions": 404, "/v1/boot": 404} {
		if status, _, _ := w.get("https://" + address + path); status != want {
			t.Errorf("%s: %d", path, status)
		}
	}
	for _, b := range w.launcher.Boots()[1:] {
		if b.Mode != wire.ModeServe || string(b.Birth) != "document" || b.Dev != nil {
			t.Errorf("%+v", b)
		}
	}
	w.launcher.Set(func(l *testkit.Launcher) { l.Err = errors.New("no memory") })
	for _, e := range w.launcher.All()[1:] {
		e.End(io.ErrUnexpectedEOF)
	}
	w.eventually("the control plane gives out a worker without enclaves", func() bool { return !w.ready() })
	w.launcher.Set(func(l *testkit.Launcher) { l.Err = nil })
	w.eventually("the enclaves were not started again", w.ready)
	if err := stop(); err != nil {
		t.Fatal(err)
	}
	if w.ready() {
		time.Sleep(600 * time.Millisecond) // the age of a control plane's list
		if w.ready() {
			t.Error("the control plane gives out a worker that has left")
		}
	}
}

func TestClientsAreSentToAWorkerWithAURL(t *testing.T) {
	w := newWorld(t)
	w.init()
	cert, key := w.path("cert.pem"), w.path("key.pem")
	writePair(t, cert, key)
	w.start(w.options("--public-url", "https://w1.example.com", "--tls-cert", cert, "--tls-key", key))
	w.eventually("no worker", w.ready)
	status, _, h := w.get(w.clients+"/v1/run/x", "Connection", "Upgrade", "Upgrade", "websocket")
	if status != http.StatusTemporaryRedirect || h.Get("Location") != "https://w1.example.com/v1/run/x" {
		t.Errorf("%d %q", status, h.Get("Location"))
	}
}

// open switches protocols with the control plane and returns the connection.
func (w *world) open() (net.Conn, *bufio.Reader) {
	w.t.Helper()
	conn, err := net.Dial("tcp", strings.TrimPrefix(w.clients, "http://"))
	if err != nil {
		w.t.Fatal(err)
	}
	w.t.Cleanup(func() { conn.Close() })
	if err := conn.SetDeadline(time.Now().Add(20 * time.Second)); err != nil {
		w.t.Fatal(err)
	}
	fmt.Fprint(conn, "GET /v1/run/x HTTP/1.1\r\nHost: h\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n")
	r := bufio.NewReader(conn)
	resp, err := http.ReadResponse(r, nil)
	if err != nil || resp.StatusCode != http.StatusSwitchingProtocols {
		w.t.Fatalf("%v, %v", resp, err)
	}
	return conn, r
}

func TestDraining(t *testing.T) {
	w := newWorld(t)
	w.init()
	address, stop := w.start(w.options("--drain", "20s"))
	w.eventually("no worker", w.ready)
	conn, answers := w.open()
	ended := make(chan error, 1)
	go func() { ended <- stop() }()
	w.eventually("a worker that is being stopped takes sessions", func() bool { return !w.ready() })
	w.eventually("it says that it is ready", func() bool {
		status, _, _ := w.get("https://" + address + "/readyz")
		return status == http.StatusServiceUnavailable
	})
	fmt.Fprint(conn, "still here")
	said := make([]byte, 10)
	if _, err := io.ReadFull(answers, said); err != nil || string(said) != "still here" {
		t.Fatalf("the running session: %q, %v", said, err)
	}
	select {
	case err := <-ended:
		t.Fatalf("it ended under a session: %v", err)
	default:
	}
	conn.Close()
	if err := <-ended; err != nil {
		t.Error(err)
	}
	for _, e := range w.launcher.All() {
		select {
		case <-e.Done():
		default:
			t.Error("an enclave still runs")
		}
	}
}

func TestDrainingHasAnEnd(t *testing.T) {
	w := newWorld(t)
	w.init()
	_, stop := w.start(w.options("--drain", "2s"))
	w.eventually("no worker", w.ready)
	w.open()
	start := time.Now()
	if err := stop(); err != nil || time.Since(start) > 15*time.Second {
		t.Errorf("%v after %s", err, time.Since(start))
	}
}

func TestStoppedBeforeThereIsAKey(t *testing.T) {
	w := newWorld(t)
	stop := background(t, func(ctx context.Context) error { return worker.Run(ctx, w.options()) })
	time.Sleep(300 * time.Millisecond)
	if err := stop(); err != nil {
		t.Errorf("%v", err)
	}
	if len(w.launcher.All()) != 0 {
		t.Error("an enclave was started without a key")
	}
}
