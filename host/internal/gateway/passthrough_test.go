package gateway

import (
	"context"
	"errors"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"path/filepath"
	"testing"
	"time"
)

// pass serves a gateway's second listener in front of an enclave that repeats
// what it gets.
func pass(t *testing.T, max int) (*Gateway, string) {
	t.Helper()
	path := filepath.Join(t.TempDir(), "s")
	inside, err := net.Listen("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	go func() {
		for {
			conn, err := inside.Accept()
			if err != nil {
				return
			}
			go func() {
				defer conn.Close()
				io.Copy(conn, conn)
			}()
		}
	}()
	g := New(Config{Max: max, Log: slog.New(slog.DiscardHandler), Dial: func(ctx context.Context) (net.Conn, error) {
		var d net.Dialer
		return d.DialContext(ctx, "unix", path)
	}})
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	done := make(chan error, 1)
	go func() { done <- g.Pass(l) }()
	t.Cleanup(func() {
		l.Close()
		g.Close()
		if err := <-done; err != nil {
			t.Error(err)
		}
		inside.Close()
	})
	return g, l.Addr().String()
}

func dialPass(t *testing.T, address string) *net.TCPConn {
	t.Helper()
	conn, err := net.Dial("tcp", address)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	if err := conn.SetDeadline(time.Now().Add(20 * time.Second)); err != nil {
		t.Fatal(err)
	}
	return conn.(*net.TCPConn)
}

// TestPass: what is said on the second listener arrives byte for byte, whatever it is.
func TestPass(t *testing.T) {
	g, address := pass(t, 10)
	for _, said := range [][]byte{random(3 << 20), []byte("GET / HTTP/1.1\r\n\r\n"), {}} {
		conn := dialPass(t, address)
		go func() { conn.Write(said); conn.CloseWrite() }()
		if got, err := io.ReadAll(conn); err != nil || string(got) != string(said) {
			t.Errorf("%d bytes came back of %d: %v", len(got), len(said), err)
		}
	}
	waitFor(t, "connections to end", func() bool { return g.Active() == 0 })
}

// TestPassIsBounded: a connection beyond the maximum is closed; another is taken
// when one has ended.
func TestPassIsBounded(t *testing.T) {
	g, address := pass(t, 1)
	first := dialPass(t, address)
	waitFor(t, "the first connection", func() bool { return g.Active() == 1 })
	if _, err := dialPass(t, address).Read(make([]byte, 1)); err == nil {
		t.Error("more connections than allowed")
	} else if late := net.Error(nil); errors.As(err, &late) && late.Timeout() {
		t.Error("a refused connection was left open")
	}
	first.Close()
	waitFor(t, "room", func() bool { return g.Active() == 0 })
	last := dialPass(t, address)
	if _, err := last.Write([]byte("x")); err != nil {
		t.Fatal(err)
	}
	if _, err := io.ReadFull(last, make([]byte, 1)); err != nil {
		t.Error(err)
	}
}

// TestCloseEndsPassed: no connection outlives the gateway.
func TestCloseEndsPassed(t *testing.T) {
	g, address := pass(t, 10)
	conn := dialPass(t, address)
	waitFor(t, "the connection", func() bool { return g.Active() == 1 })
	g.Close()
	if _, err := io.ReadAll(conn); err != nil {
		if late := net.Error(nil); errors.As(err, &late) && late.Timeout() {
			t.Error("the connection was left open")
		}
	}
}

// TestElsewhere: only clients of protocol v2 that are no browsers are sent on,
// and the path and query go with them.
func TestElsewhere(t *testing.T) {
	for _, c := range []struct {
		name      string
		protocols []string
		origin    string
		plain     bool
		moved     bool
	}{
		{name: "v2", protocols: []string{"cape.v2"}, moved: true},
		{name: "v2 among others", protocols: []string{"chat, cape.v2"}, moved: true},
		{name: "v2 in a second line", protocols: []string{"cape.runtime", "cape.v2"}, moved: true},
		{name: "v1", protocols: []string{"cape.runtime", "token"}},
		{name: "nothing offered"},
		{name: "another name", protocols: []string{"cape.v20"}},
		{name: "a browser", protocols: []string{"cape.v2"}, origin: "https://app.example"},
		{name: "a browser without an origin of its own", protocols: []string{"cape.v2"}, origin: "null"},
		{name: "no upgrade", protocols: []string{"cape.v2"}, plain: true},
	} {
		t.Run(c.name, func(t *testing.T) {
			dials := 0
			g := New(Config{Max: 1, Log: slog.New(slog.DiscardHandler),
				Dial:      func(context.Context) (net.Conn, error) { dials++; return nil, net.ErrClosed },
				Elsewhere: func(r *http.Request) string { return "https://enclave.example:1" + r.URL.RequestURI() },
			})
			defer g.Close()
			r := httptest.NewRequest(http.MethodGet, "/v1/run/x?q=1", nil)
			r.Header["Sec-Websocket-Protocol"] = c.protocols
			if !c.plain {
				r.Header.Set("Connection", "Upgrade")
				r.Header.Set("Upgrade", "websocket")
			}
			if c.origin != "" {
				r.Header.Set("Origin", c.origin)
			}
			w := httptest.NewRecorder()
			g.ServeHTTP(w, r)
			location := w.Result().Header.Get("Location")
			if c.moved != (w.Code == http.StatusTemporaryRedirect) || c.moved != (location == "https://enclave.example:1/v1/run/x?q=1") || c.moved == (dials == 1) {
				t.Errorf("status %d, location %q, %d connections to the enclave", w.Code, location, dials)
			}
		})
	}
}
