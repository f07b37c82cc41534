package api

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
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/cape-functions/cape/core/wire"
	"github.com/cape-functions/cape/host/internal/identity"
	"github.com/cape-functions/cape/host/internal/store"
)

var (
	alice = wire.Subject{Iss: "issuer", Sub: "alice|1"}
	bob   = wire.Subject{Iss: "issuer", Sub: "bob|1"}
)

// fakeStore holds functions in the order of listings.
type fakeStore struct {
	functions []*store.Function
	broken    error
	limit     int
	offset    int
}

func (f *fakeStore) Functions(_ context.Context, owner wire.Subject, limit, offset int) ([]*store.Function, error) {
	f.limit, f.offset = limit, offset
	var out []*store.Function
	for _, fn := range f.functions {
		if fn.Owner == owner {
			out = append(out, fn)
		}
	}
	return out, f.broken
}

func (f *fakeStore) Function(_ context.Context, id string) (*store.Function, error) {
	for _, fn := range f.functions {
		if fn.ID == id {
			return fn, f.broken
		}
	}
	return nil, errors.Join(f.broken, store.ErrNotFound)
}

func (f *fakeStore) DeleteFunction(ctx context.Context, owner wire.Subject, id string) error {
	for i, fn := range f.functions {
		if fn.ID == id && fn.Owner == owner {
			f.functions = append(f.functions[:i:i], f.functions[i+1:]...)
			return f.broken
		}
	}
	return errors.Join(f.broken, store.ErrNotFound)
}

func (f *fakeStore) Ping(context.Context) error { return f.broken }

func verify(token string) (*identity.Claims, error) {
	switch token {
	case "alice's":
		return &identity.Claims{Owner: alice, Username: "alice"}, nil
	case "expired":
		return nil, identity.ErrExpired
	}
	return nil, identity.ErrToken
}

// fixture is a server over fakes.
type fixture struct {
	url      string
	store    *fakeStore
	log      *bytes.Buffer
	releases []wire.Release
	sessions []string
}

func start(t *testing.T) *fixture {
	t.Helper()
	at := time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)
	f := &fixture{log: &bytes.Buffer{}, releases: []wire.Release{{Revision: "r", Python: "3.11"}}, store: &fakeStore{functions: []*store.Function{
		{ID: "new", Owner: alice, Name: "echo", Checksum: []byte{0xab, 1}, Public: true, Size: 7, CreatedAt: at.Add(time.Hour)},
		{ID: "old", Owner: alice, Name: "echo", Checksum: []byte{0xcd}, CreatedAt: at},
		{ID: "bobs", Owner: bob, Name: "secret", Checksum: []byte{1}, CreatedAt: at},
	}}}
	h := New(Config{
		Functions: f.store, Verify: verify, Issuer: "issuer", Log: slog.New(slog.NewTextHandler(f.log, nil)),
		KeySet:   func() ([]byte, error) { return []byte(`{"keys":[]}`), nil },
		Releases: func() []wire.Release { return f.releases },
		Sessions: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			f.sessions = append(f.sessions, r.RequestURI)
			io.WriteString(w, "session")
		}),
	})
	s := httptest.NewServer(h)
	t.Cleanup(s.Close)
	f.url = s.URL
	return f
}

func (f *fixture) do(t *testing.T, method, path, token string) (*http.Response, string) {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), method, f.url+path, nil)
	if err != nil {
		t.Fatal(err)
	}
	if token != "" {
		req.Header.Set("Authorization", token)
	}
	resp, err := http.DefaultTransport.RoundTrip(req)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	return resp, string(b)
}

func wantError(t *testing.T, resp *http.Response, body string, status int, code string) {
	t.Helper()
	var e wire.ErrorBody
	if err := json.Unmarshal([]byte(body), &e); err != nil || e.Error == "" || e.Code != code || resp.StatusCode != status {
		t.Errorf("status %d, %q, %v; want %d %s", resp.StatusCode, body, err, status, code)
	}
	if got := resp.Header.Get("Content-Type"); got != "application/json" {
		t.Errorf("content type %q", got)
	}
}

func TestList(t *testing.T) {
	f := start(t)
	resp, body := f.do(t, "GET", "/v1/functions", "Bearer alice's")
	var got []wire.Function
	if err := json.Unmarshal([]byte(body), &got); err != nil || resp.StatusCode != 200 {
		t.Fatalf("%d %s %v", resp.StatusCode, body, err)
	}
	at := time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)
	want := []wire.Function{
		{ID: "new", Name: "echo", CreatedAt: at.Add(time.Hour), Checksum: "ab01", Public: true, Size: 7},
		{ID: "old", Name: "echo", CreatedAt: at, Checksum: "cd"},
	}
	if d := cmp.Diff(want, got); d != "" || f.store.limit != 50 || f.store.offset != 0 {
		t.Errorf("limit %d, offset %d: %s", f.store.limit, f.store.offset, d)
	}
	f.store.functions = nil
	if _, body := f.do(t, "GET", "/v1/functions", "bearer alice's"); strings.TrimSpace(body) != "[]" {
		t.Errorf("an empty list is %q", body)
	}
}

func TestPages(t *testing.T) {
	f := start(t)
	for _, c := range []struct {
		query         string
		status        int
		limit, offset int
	}{
		{"limit=1&offset=2", 200, 1, 2}, {"limit=1000", 200, 1000, 0}, {"limit=&offset=", 200, 50, 0}, {"offset=1000000", 200, 50, 1_000_000},
		{"limit=0", 400, 0, 0}, {"limit=-1", 400, 0, 0}, {"limit=1001", 400, 0, 0}, {"limit=x", 400, 0, 0}, {"limit=99999999999999999999", 400, 0, 0},
		{"offset=-1", 400, 0, 0}, {"offset=1000001", 400, 0, 0}, {"offset=1.5", 400, 0, 0},
	} {
		resp, body := f.do(t, "GET", "/v1/functions?"+c.query, "Bearer alice's")
		if resp.StatusCode != c.status || c.status == 200 && (f.store.limit != c.limit || f.store.offset != c.offset) {
			t.Errorf("%s: %d, limit %d, offset %d", c.query, resp.StatusCode, f.store.limit, f.store.offset)
		}
		if c.status == 400 {
			wantError(t, resp, body, 400, wire.CodeInvalidRequest)
		}
	}
}

func TestShowAndDelete(t *testing.T) {
	f := start(t)
	resp, body := f.do(t, "GET", "/v1/functions/new", "Bearer alice's")
	var got wire.Function
	if err := json.Unmarshal([]byte(body), &got); err != nil || resp.StatusCode != 200 || got.ID != "new" {
		t.Errorf("%d %s %v", resp.StatusCode, body, err)
	}
	for _, method := range []string{"GET", "DELETE"} {
		for _, id := range []string{"bobs", "none", "%2e%2e", "a%00b"} {
			resp, body := f.do(t, method, "/v1/functions/"+id, "Bearer alice's")
			wantError(t, resp, body, 404, wire.CodeNotFound)
		}
	}
	if resp, body := f.do(t, "DELETE", "/v1/functions/new", "Bearer alice's"); resp.StatusCode != 200 || !json.Valid([]byte(body)) {
		t.Errorf("%d %s", resp.StatusCode, body)
	}
	if len(f.store.functions) != 2 {
		t.Errorf("%d functions are left", len(f.store.functions))
	}
}

func TestTokens(t *testing.T) {
	f := start(t)
	for _, path := range []string{"/v1/functions", "/v1/functions/new"} {
		for _, token := range []string{"", "alice's", "Basic alice's", "Bearer", "Bearer ", "Bearer bob's", "Bearer expired"} {
			resp, body := f.do(t, "GET", path, token)
			wantError(t, resp, body, 401, wire.CodeUnauthorized)
			if resp.Header.Get("WWW-Authenticate") == "" {
				t.Errorf("%q: no challenge", token)
			}
		}
	}
	// Published clients look for this phrase.
	if _, body := f.do(t, "GET", "/v1/functions", "Bearer expired"); !strings.Contains(body, "token is expired") {
		t.Errorf("%s", body)
	}
}

func TestRoutes(t *testing.T) {
	f := start(t)
	for _, c := range []struct {
		method, path string
		status       int
		allow        string
	}{
		{"GET", "/", 404, ""}, {"GET", "/v1", 404, ""}, {"GET", "/v1/functions/a/b", 404, ""}, {"GET", "/v1/run", 404, ""}, {"GET", "/v1/run/a/b/c", 404, ""},
		{"GET", "/v1//functions", 404, ""}, {"GET", "/v1/../v1/functions", 404, ""}, {"POST", "/", 404, ""},
		{"POST", "/v1/functions", 405, "GET, HEAD"}, {"PUT", "/v1/functions/x", 405, "DELETE, GET, HEAD"}, {"POST", "/v1/deploy", 405, "GET, HEAD"},
		{"OPTIONS", "/v1/releases", 405, "GET, HEAD"},
	} {
		resp, body := f.do(t, c.method, c.path, "Bearer alice's")
		code := wire.CodeNotFound
		if c.status == 405 {
			code = wire.CodeInvalidRequest
		}
		wantError(t, resp, body, c.status, code)
		if resp.Header.Get("Allow") != c.allow {
			t.Errorf("%s %s: allow %q", c.method, c.path, resp.Header.Get("Allow"))
		}
	}
	if len(f.sessions) != 0 {
		t.Errorf("handed to the enclave: %q", f.sessions)
	}
}

func TestSessionRoutes(t *testing.T) {
	f := start(t)
	want := []string{"/v1/run/abc?x=1", "/v1/run/u%7C1/name", "/v1/deploy", "/v1/test", "/v1/key", "/v1/user/u/key"}
	for _, path := range want {
		if resp, body := f.do(t, "GET", path, ""); resp.StatusCode != 200 || body != "session" {
			t.Errorf("%s: %d %q", path, resp.StatusCode, body)
		}
	}
	if d := cmp.Diff(want, f.sessions); d != "" {
		t.Error(d)
	}
}

func TestOpenRoutes(t *testing.T) {
	f := start(t)
	_, body := f.do(t, "GET", "/v1/releases", "")
	var releases []wire.Release
	if err := json.Unmarshal([]byte(body), &releases); err != nil || cmp.Diff(f.releases, releases) != "" {
		t.Errorf("%s %v", body, err)
	}
	_, body = f.do(t, "GET", "/.well-known/openid-configuration", "")
	var discovery struct {
		Issuer string `json:"issuer"`
		Keys   string `json:"jwks_uri"`
	}
	if err := json.Unmarshal([]byte(body), &discovery); err != nil || discovery.Issuer != "issuer" {
		t.Fatalf("%s %v", body, err)
	}
	resp, err := http.Get(discovery.Keys)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	if b, err := io.ReadAll(resp.Body); err != nil || string(b) != `{"keys":[]}` {
		t.Errorf("%s %v", b, err)
	}
}

func TestHealth(t *testing.T) {
	f := start(t)
	status := func(path string) int { resp, _ := f.do(t, "GET", path, ""); return resp.StatusCode }
	if status("/healthz") != 200 || status("/readyz") != 200 {
		t.Error("not healthy")
	}
	f.releases = nil // no enclave runs
	if status("/healthz") != 200 || status("/readyz") != 503 {
		t.Error("ready without an enclave")
	}
	if _, body := f.do(t, "GET", "/v1/releases", ""); strings.TrimSpace(body) != "[]" {
		t.Errorf("releases %q", body)
	}
	f.releases, f.store.broken = []wire.Release{{}}, errors.New("down")
	if status("/healthz") != 200 || status("/readyz") != 503 {
		t.Error("ready without a store")
	}
}

func TestBrokenStore(t *testing.T) {
	f := start(t)
	f.store.broken = errors.New("cause that nobody outside may see")
	for _, c := range [][2]string{{"GET", "/v1/functions"}, {"GET", "/v1/functions/new"}, {"DELETE", "/v1/functions/new"}} {
		resp, body := f.do(t, c[0], c[1], "Bearer alice's")
		wantError(t, resp, body, 503, wire.CodeUnavailable)
		if strings.Contains(body, "cause") {
			t.Errorf("%s", body)
		}
	}
}

// The log tells what happened and nothing that a caller sent.
func TestLogHoldsNoSecrets(t *testing.T) {
	f := start(t)
	for i, path := range []string{"/v1/functions?q=canary", "/v1/functions/canary", "/v1/run/canary/canary", "/canary", "/v1/key"} {
		f.do(t, []string{"GET", "DELETE"}[i%2], path, "Bearer canary")
	}
	req, err := http.NewRequestWithContext(t.Context(), "GET", f.url+"/v1/deploy", nil)
	if err != nil {
		t.Fatal(err)
	}
	req.Header["Sec-Websocket-Protocol"] = []string{"cape.runtime", "canary"}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	resp.Body.Close()
	text := f.log.String()
	if strings.Contains(text, "canary") || !strings.Contains(text, "/v1/functions/{id}") || strings.Count(text, "msg=call") != 6 {
		t.Error(text)
	}
}

func TestBodiesAreRefused(t *testing.T) {
	f := start(t)
	sent := &counter{}
	req, err := http.NewRequestWithContext(t.Context(), "GET", f.url+"/v1/functions", io.MultiReader(strings.NewReader("x"), sent))
	if err != nil {
		t.Fatal(err)
	}
	req.Header.Set("Authorization", "Bearer alice's")
	if resp, err := http.DefaultTransport.RoundTrip(req); err == nil {
		resp.Body.Close()
	}
	if sent.n > 16<<20 {
		t.Errorf("%d bytes of a body were read", sent.n)
	}
}

// counter is a body without end.
type counter struct{ n int }

func (c *counter) Read(p []byte) (int, error) {
	if c.n > 64<<20 {
		return 0, fmt.Errorf("nobody stopped it")
	}
	c.n += len(p)
	return len(p), nil
}

// Where the issuer is somebody else, nobody is told that its keys are here.
func TestForeignIssuer(t *testing.T) {
	log := &bytes.Buffer{}
	h := New(Config{Functions: &fakeStore{}, Verify: verify, Log: slog.New(slog.NewTextHandler(log, nil)), Releases: func() []wire.Release { return nil }, Sessions: http.NotFoundHandler()})
	s := httptest.NewServer(h)
	t.Cleanup(s.Close)
	f := &fixture{url: s.URL}
	for _, path := range []string{"/.well-known/jwks.json", "/.well-known/openid-configuration"} {
		resp, body := f.do(t, http.MethodGet, path, "")
		wantError(t, resp, body, http.StatusNotFound, wire.CodeNotFound)
	}
}
