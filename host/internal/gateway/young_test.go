package gateway

import (
	"context"
	"errors"
	"net"
	"net/http"
	"net/http/httptest"
	"testing"
	"time"
)

func TestClientOf(t *testing.T) {
	same := [][2]string{{"192.0.2.1:1", "192.0.2.1:2"}, {"192.0.2.1:1", "[::ffff:192.0.2.1]:2"}, {"[2001:db8::1]:1", "[2001:db8::2]:1"}, {"[fe80::1%eth0]:1", "[fe80::1]:1"}}
	for _, s := range same {
		if clientOf(s[0]) != clientOf(s[1]) {
			t.Errorf("%s and %s are two clients", s[0], s[1])
		}
	}
	for _, s := range [][2]string{{"192.0.2.1:1", "192.0.2.2:1"}, {"[2001:db8::1]:1", "[2001:db8:0:1::1]:1"}} {
		if clientOf(s[0]) == clientOf(s[1]) {
			t.Errorf("%s and %s are one client", s[0], s[1])
		}
	}
	for _, s := range []string{"127.0.0.1:1", "[::1]:1", "@", ""} {
		if clientOf(s).IsValid() {
			t.Errorf("%q counts", s)
		}
	}
}

// TestOneClientIsBounded: an address has a bound for its new connections; others, and it itself later, are served.
func TestOneClientIsBounded(t *testing.T) {
	g, _ := server(t, func(context.Context) (net.Conn, error) { return nil, errors.New("none") }, 10)
	g.cfg.PerClient, g.age = 2, 50*time.Millisecond
	enter := func(remote string) *pair {
		p, err := g.enter(remote)
		if err != nil {
			return nil
		}
		t.Cleanup(func() { g.leave(p) })
		return p
	}
	first := enter("192.0.2.1:1")
	if first == nil || enter("192.0.2.1:2") == nil {
		t.Fatal("two are refused")
	}
	w, r := httptest.NewRecorder(), httptest.NewRequest(http.MethodGet, "/v1/run/x", nil)
	r.RemoteAddr = "192.0.2.1:3"
	if g.ServeHTTP(w, r); w.Code != http.StatusTooManyRequests || w.Header().Get("Retry-After") == "" {
		t.Errorf("the third: status %d", w.Code)
	}
	if enter("192.0.2.2:1") == nil || enter("127.0.0.1:1") == nil || enter("127.0.0.1:2") == nil || enter("127.0.0.1:3") == nil {
		t.Error("others are refused")
	}
	waitFor(t, "connections that are no longer new", func() bool { return enter("192.0.2.1:4") != nil })
}

// TestWhatEndedDoesNotCount though it was young.
func TestWhatEndedDoesNotCount(t *testing.T) {
	g, _ := server(t, func(context.Context) (net.Conn, error) { return nil, errors.New("none") }, 10)
	g.cfg.PerClient = 1
	for range 3 {
		p, err := g.enter("192.0.2.1:1")
		if err != nil {
			t.Fatal(err)
		}
		g.leave(p)
	}
	if len(g.young) != 0 {
		t.Errorf("%d clients are known", len(g.young))
	}
}
