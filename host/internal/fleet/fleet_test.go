package fleet_test

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/cape-functions/cape/core/wire"
	"github.com/cape-functions/cape/host/internal/fleet"
	"github.com/cape-functions/cape/host/internal/kek"
)

const secret = "0123456789abcdef0123456789abcdef"

func token(t *testing.T, text string) fleet.Token {
	t.Helper()
	tok, err := fleet.NewToken(text)
	if err != nil {
		t.Fatal(err)
	}
	return tok
}

// rows keep workers in memory.
type rows struct {
	mu   sync.Mutex
	all  map[string][]byte
	fail error
	asks int
}

func (r *rows) PutWorker(_ context.Context, name string, body []byte) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.all[name] = body
	return r.fail
}

func (r *rows) DropWorker(_ context.Context, name string) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	delete(r.all, name)
	return r.fail
}

func (r *rows) Workers(context.Context, time.Duration) ([][]byte, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.asks++
	var out [][]byte
	for _, b := range r.all {
		out = append(out, b)
	}
	return out, r.fail
}

// control is a control plane of which the tests change what it knows.
type control struct {
	*httptest.Server
	rows  *rows
	mu    sync.Mutex
	boot  wire.Boot
	err   error
	birth *wire.Birth
	logs  bytes.Buffer
}

func newControl(t *testing.T) *control {
	t.Helper()
	c := &control{rows: &rows{all: map[string][]byte{}}}
	trust := wire.Trust{Issuers: []wire.Issuer{}, Role: "arn:aws:iam::1:role/r"}
	c.Server = httptest.NewServer(fleet.Server{
		Token: token(t, secret), Rows: c.rows, Trust: trust, Log: slog.New(slog.NewTextHandler(&c.logs, nil)),
		Boot: func(context.Context) (wire.Boot, error) {
			c.mu.Lock()
			defer c.mu.Unlock()
			return c.boot, c.err
		},
		Born: func(_ context.Context, b wire.Birth) error {
			c.mu.Lock()
			defer c.mu.Unlock()
			if c.birth != nil {
				return kek.ErrExists
			}
			c.birth = &b
			return nil
		},
		Store: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			b, err := io.ReadAll(r.Body)
			fmt.Fprintf(w, "%s %s %q %q %v %v", r.Method, r.URL.RequestURI(), b, r.Header.Get("Content-Type"), r.Header.Get("X-Odd"), err)
		}),
	}.Handler())
	t.Cleanup(c.Close)
	return c
}

func (c *control) client(t *testing.T, text string) *fleet.Client {
	t.Helper()
	cl, err := fleet.NewClient(c.URL, token(t, text), nil, slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(cl.Close)
	return cl
}

func worker(name string) fleet.Worker {
	return fleet.Worker{Name: name, Address: "127.0.0.1:7690", Certificate: strings.Repeat("ab", 32), State: fleet.Ready, Capacity: 10}
}

func TestBothEnds(t *testing.T) {
	c := newControl(t)
	cl := c.client(t, secret)
	ctx := t.Context()
	if err := cl.Say(ctx, worker("w1")); err != nil {
		t.Fatal(err)
	}
	var said fleet.Worker
	if err := json.Unmarshal(c.rows.all["w1"], &said); err != nil || said.State != fleet.Ready {
		t.Errorf("%+v, %v", said, err)
	}
	if err := cl.Leave(ctx, "w1"); err != nil || len(c.rows.all) != 0 {
		t.Errorf("%v, %v", err, c.rows.all)
	}
	c.err = kek.ErrNone
	if _, err := cl.Boot(ctx); !errors.Is(err, kek.ErrNone) {
		t.Errorf("boot without a key: %v", err)
	}
	if tr, err := cl.Trust(ctx); err != nil || tr.Role != "arn:aws:iam::1:role/r" {
		t.Errorf("%+v, %v", tr, err)
	}
	birth := wire.Birth{KMS: "arn:aws:kms:k", Policy: []byte("p"), Document: []byte("d")}
	if err := cl.Born(ctx, birth); err != nil || c.birth.KMS != birth.KMS {
		t.Errorf("%v", err)
	}
	if err := cl.Born(ctx, birth); !errors.Is(err, kek.ErrExists) {
		t.Errorf("a second key: %v", err)
	}
	c.boot, c.err = wire.Boot{Mode: wire.ModeServe, Config: []byte("c"), Birth: []byte("d")}, nil
	if b, err := cl.Boot(ctx); err != nil || b.Mode != wire.ModeServe || string(b.Birth) != "d" {
		t.Errorf("%+v, %v", b, err)
	}
}

func TestTheStoreLinkPasses(t *testing.T) {
	c := newControl(t)
	here := httptest.NewServer(c.client(t, secret).Store())
	defer here.Close()
	req, err := http.NewRequestWithContext(t.Context(), http.MethodPut, here.URL+"/v1/keys?iss=a%2Fb&sub=x", strings.NewReader("body"))
	if err != nil {
		t.Fatal(err)
	}
	req.Header.Set("Content-Type", "application/cbor")
	req.Header.Set("X-Odd", "odd")
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	if want := `PUT /v1/keys?iss=a%2Fb&sub=x "body" "application/cbor"  <nil>`; err != nil || string(b) != want {
		t.Errorf("%s, %v; want %s", b, err, want)
	}
}

func TestTheStoreIsAway(t *testing.T) {
	c := newControl(t)
	cl := c.client(t, secret)
	c.Server.Close()
	here := httptest.NewServer(cl.Store())
	defer here.Close()
	resp, err := http.Get(here.URL + "/v1/functions/x")
	if err != nil {
		t.Fatal(err)
	}
	resp.Body.Close()
	if resp.StatusCode != http.StatusServiceUnavailable {
		t.Error(resp.Status)
	}
	if err := cl.Say(t.Context(), worker("w")); !errors.Is(err, fleet.ErrControl) {
		t.Errorf("%v", err)
	}
}

func TestWithoutTheToken(t *testing.T) {
	c := newControl(t)
	cl := c.client(t, strings.Repeat("x", 32))
	if err := cl.Say(t.Context(), worker("w1")); !errors.Is(err, fleet.ErrToken) {
		t.Errorf("%v", err)
	}
	for _, path := range []string{"GET /v1/boot", "GET /v1/trust", "POST /v1/birth", "PUT /v1/workers/w", "DELETE /v1/workers/w", "GET /v1/store/v1/functions/x", "GET /"} {
		for _, header := range []string{"", "Bearer", "Bearer ", "Basic " + secret, "Bearer " + secret[1:], "Bearer " + secret + "x"} {
			method, path, _ := strings.Cut(path, " ")
			req, err := http.NewRequestWithContext(t.Context(), method, c.URL+path, nil)
			if err != nil {
				t.Fatal(err)
			}
			req.Header.Set("Authorization", header)
			resp, err := http.DefaultClient.Do(req)
			if err != nil {
				t.Fatal(err)
			}
			resp.Body.Close()
			if resp.StatusCode != http.StatusUnauthorized {
				t.Errorf("%s %s with %q: %s", method, path, header, resp.Status)
			}
		}
	}
	if len(c.rows.all) != 0 || c.birth != nil {
		t.Error("something was done for a stranger")
	}
	if strings.Contains(c.logs.String(), secret) || strings.Contains(c.logs.String(), "xxxxxxxx") {
		t.Error("a token was logged")
	}
}

func TestWorkersThatCannotBeUsed(t *testing.T) {
	for name, change := range map[string]func(*fleet.Worker){
		"name":             func(w *fleet.Worker) { w.Name = "a/b" },
		"no port":          func(w *fleet.Worker) { w.Address = "127.0.0.1" },
		"no host":          func(w *fleet.Worker) { w.Address = ":7690" },
		"no certificate":   func(w *fleet.Worker) { w.Certificate = "" },
		"state":            func(w *fleet.Worker) { w.State = "well" },
		"plain URL":        func(w *fleet.Worker) { w.URL = "http://w.example.com" },
		"URL with a path":  func(w *fleet.Worker) { w.URL = "https://w.example.com/x" },
		"URL with a user":  func(w *fleet.Worker) { w.URL = "https://u@w.example.com" },
		"negative":         func(w *fleet.Worker) { w.Connections = -1 },
		"too many release": func(w *fleet.Worker) { w.Releases = make([]wire.Release, 17) },
	} {
		w := worker("w1")
		change(&w)
		if err := w.Validate(); !errors.Is(err, fleet.ErrWorker) {
			t.Errorf("%s: %v", name, err)
		}
	}
	c := newControl(t)
	for name, body := range map[string]string{"not JSON": "x", "unknown field": `{"name":"w1","more":1}`, "too large": strings.Repeat(" ", 129<<10), "another's name": `{"name":"w2"}`} {
		req, err := http.NewRequestWithContext(t.Context(), http.MethodPut, c.URL+"/v1/workers/w1", strings.NewReader(body))
		if err != nil {
			t.Fatal(err)
		}
		req.Header.Set("Authorization", "Bearer "+secret)
		resp, err := http.DefaultClient.Do(req)
		if err != nil {
			t.Fatal(err)
		}
		resp.Body.Close()
		if resp.StatusCode != http.StatusBadRequest || len(c.rows.all) != 0 {
			t.Errorf("%s: %s", name, resp.Status)
		}
	}
}

func TestTokens(t *testing.T) {
	path := filepath.Join(t.TempDir(), "token")
	if err := os.WriteFile(path, []byte(secret+"\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	tok, err := fleet.ReadToken(path)
	if err != nil || !tok.Is(secret) || tok.Is(secret+"x") {
		t.Fatal(err)
	}
	var out bytes.Buffer
	slog.New(slog.NewJSONHandler(&out, nil)).Info("x", "token", tok)
	if s := fmt.Sprintf("%v %s %+v %#v %q", tok, tok, tok, tok, tok) + out.String(); strings.Contains(s, secret[:8]) {
		t.Errorf("it prints: %s", s)
	}
	if (fleet.Token{}).Is("") {
		t.Error("an empty token is accepted")
	}
	if err := os.Chmod(path, 0o604); err != nil {
		t.Fatal(err)
	}
	if _, err := fleet.ReadToken(path); !errors.Is(err, fleet.ErrToken) {
		t.Errorf("everybody can read it: %v", err)
	}
	for _, bad := range []string{"", "short", strings.Repeat("a", 31) + " ", strings.Repeat("a", 513)} {
		if _, err := fleet.NewToken(bad); !errors.Is(err, fleet.ErrToken) {
			t.Errorf("%q: %v", bad, err)
		}
	}
}

func TestControlURLs(t *testing.T) {
	for url, ok := range map[string]bool{
		"https://c.example.com:7680": true, "http://127.0.0.1:7680": true, "http://localhost:1": true, "http://[::1]:1": true,
		"http://10.0.0.1:7680": false, "http://c.example.com": false, "https://c/x": false, "https://u@c": false, "c:1": false, "": false,
	} {
		if err := fleet.CheckControl(url); (err == nil) != ok {
			t.Errorf("%q: %v", url, err)
		}
	}
}
