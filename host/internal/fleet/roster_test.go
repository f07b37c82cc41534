package fleet_test

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/cape-functions/cape/core/wire"
	"github.com/cape-functions/cape/host/internal/fleet"
	"github.com/cape-functions/cape/host/internal/gateway"
)

func roster(t *testing.T, all ...fleet.Worker) (*fleet.Roster, *rows) {
	t.Helper()
	r := &rows{all: map[string][]byte{}}
	for _, w := range all {
		b, err := json.Marshal(w)
		if err != nil {
			t.Fatal(err)
		}
		r.all[w.Name] = b
	}
	return fleet.NewRoster(r, slog.New(slog.DiscardHandler)), r
}

func TestOrder(t *testing.T) {
	draining, starting, full := worker("draining"), worker("starting"), worker("full")
	draining.State, starting.State, full.Connections = fleet.Draining, fleet.Starting, 10
	r, rows := roster(t, worker("a"), worker("b"), worker("c"), draining, starting, full)
	first := map[string]int{}
	for i := range 600 {
		key := fmt.Sprintf("/v1/run/%d", i)
		order := r.Order(t.Context(), key)
		if len(order) != 4 || order[3].Name != "full" {
			t.Fatalf("%+v", order)
		}
		if again := r.Order(t.Context(), key); again[0].Name != order[0].Name {
			t.Fatal("one key went to two workers")
		}
		first[order[0].Name]++
	}
	for _, name := range []string{"a", "b", "c"} {
		if first[name] < 120 || first[name] > 280 {
			t.Errorf("worker %s got %d of 600 keys", name, first[name])
		}
	}
	if rows.asks > 5 {
		t.Errorf("the database was asked %d times for 1,200 requests", rows.asks)
	}
}

func TestReleasesOnce(t *testing.T) {
	a, b := worker("a"), worker("b")
	one, two := wire.Release{Revision: "1"}, wire.Release{Revision: "2"}
	a.Releases, b.Releases = []wire.Release{one, two}, []wire.Release{one}
	r, _ := roster(t, a, b)
	if got := r.Releases(t.Context()); len(got) != 2 {
		t.Errorf("%+v", got)
	}
}

// workerServer is a worker on the network.
func workerServer(t *testing.T, name string) fleet.Worker {
	t.Helper()
	s := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { io.WriteString(w, name+" "+r.RequestURI) }))
	s.StartTLS()
	t.Cleanup(s.Close)
	sum := sha256.Sum256(s.Certificate().Raw)
	w := worker(name)
	w.Address, w.Certificate = s.Listener.Addr().String(), hex.EncodeToString(sum[:])
	return w
}

// front is a control plane's session routes.
func front(t *testing.T, all ...fleet.Worker) *httptest.Server {
	t.Helper()
	r, _ := roster(t, all...)
	router := &fleet.Router{Roster: r}
	g := gateway.New(gateway.Config{Dial: router.Dial, Max: 10, Log: slog.New(slog.DiscardHandler)})
	router.Pipe = g
	s := httptest.NewServer(router)
	t.Cleanup(func() { g.Close(); s.Close() })
	return s
}

func ask(t *testing.T, s *httptest.Server, path string, header map[string]string) (status int, location, body string) {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, s.URL+path, nil)
	if err != nil {
		t.Fatal(err)
	}
	for k, v := range header {
		req.Header.Set(k, v)
	}
	c := &http.Client{CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }}
	resp, err := c.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	return resp.StatusCode, resp.Header.Get("Location"), string(b)
}

func TestPipesToAWorker(t *testing.T) {
	s := front(t, workerServer(t, "w1"))
	if status, _, body := ask(t, s, "/v1/run/x?q=1", nil); status != 200 || body != "w1 /v1/run/x?q=1" {
		t.Errorf("%d %q", status, body)
	}
}

func TestTriesAnotherWorker(t *testing.T) {
	gone := worker("gone")
	gone.Address = "127.0.0.1:1"
	s := front(t, workerServer(t, "w1"), gone)
	for i := range 8 { // both come first for some of these
		if status, _, body := ask(t, s, fmt.Sprintf("/v1/run/%d", i), nil); status != 200 || !strings.HasPrefix(body, "w1 ") {
			t.Errorf("%d %q", status, body)
		}
	}
}

func TestRefusesAnotherCertificate(t *testing.T) {
	w := workerServer(t, "w1")
	w.Certificate = strings.Repeat("00", 32)
	r, _ := roster(t, w)
	if _, err := r.Dial(t.Context(), "/"); err == nil || errors.Is(err, fleet.ErrNoWorker) {
		t.Errorf("%v", err)
	}
	if status, _, _ := ask(t, front(t, w), "/v1/run/x", nil); status != http.StatusServiceUnavailable {
		t.Error(status)
	}
}

func TestNoWorker(t *testing.T) {
	r, _ := roster(t)
	if _, err := r.Dial(t.Context(), "/"); !errors.Is(err, fleet.ErrNoWorker) {
		t.Errorf("%v", err)
	}
	if status, _, _ := ask(t, front(t), "/v1/run/x", nil); status != http.StatusServiceUnavailable {
		t.Error(status)
	}
}

func TestSendsClientsToAWorker(t *testing.T) {
	w := workerServer(t, "w1")
	w.URL = "https://w1.example.com/"
	s := front(t, w)
	upgrade := map[string]string{"Connection": "Upgrade", "Upgrade": "websocket"}
	if status, location, _ := ask(t, s, "/v1/run/a/b?q=1", upgrade); status != http.StatusTemporaryRedirect || location != "https://w1.example.com/v1/run/a/b?q=1" {
		t.Errorf("%d %q", status, location)
	}
	upgrade["Origin"] = "https://page.example.com" // browsers cannot follow
	if status, _, body := ask(t, s, "/v1/run/x", upgrade); status != 200 || body != "w1 /v1/run/x" {
		t.Errorf("a browser: %d %q", status, body)
	}
	if status, _, body := ask(t, s, "/v1/user/bob/key", nil); status != 200 || body != "w1 /v1/user/bob/key" {
		t.Errorf("a plain request: %d %q", status, body)
	}
}
