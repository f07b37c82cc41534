package gateway

import (
	"bufio"
	"bytes"
	"context"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
	"time"

	"github.com/cape-functions/cape/core/wire"
)

// enclave listens on a unix socket and gives each connection to handle.
func enclave(t *testing.T, handle func(net.Conn, *http.Request, *bufio.Reader)) func(context.Context) (net.Conn, error) {
	t.Helper()
	path := filepath.Join(t.TempDir(), "s")
	l, err := net.Listen("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	go func() {
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			go func() {
				defer conn.Close()
				r := bufio.NewReader(conn)
				if req, err := http.ReadRequest(r); err == nil {
					handle(conn, req, r)
				}
			}()
		}
	}()
	return func(ctx context.Context) (net.Conn, error) {
		var d net.Dialer
		return d.DialContext(ctx, "unix", path)
	}
}

func server(t *testing.T, dial func(context.Context) (net.Conn, error), max int) (*Gateway, string) {
	t.Helper()
	g := New(Config{Dial: dial, Max: max, Log: slog.New(slog.DiscardHandler)})
	s := httptest.NewServer(g)
	t.Cleanup(func() { s.Close(); g.Close() })
	return g, s.Listener.Addr().String()
}

const upgrade = "GET /v1/run/x?q=1 HTTP/1.1\r\nHost: h\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n" +
	"Sec-WebSocket-Protocol: cape.runtime\r\nSec-WebSocket-Protocol: token\r\n\r\n"

func echo(conn net.Conn, r *http.Request, rest *bufio.Reader) {
	fmt.Fprintf(conn, "%s %s %s|", r.RequestURI, strings.Join(r.Header["Sec-Websocket-Protocol"], "+"), r.Header.Get("X-Forwarded-For"))
	io.Copy(conn, rest)
}

func TestCarries(t *testing.T) {
	g, addr := server(t, enclave(t, echo), 10)
	conn, err := net.Dial("tcp", addr)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	payload := make([]byte, 5<<20)
	rand.Read(payload)
	go func() {
		io.WriteString(conn, upgrade+"early ")
		conn.Write(payload)
		conn.(*net.TCPConn).CloseWrite()
	}()
	got, err := io.ReadAll(conn)
	if err != nil {
		t.Fatal(err)
	}
	head := "/v1/run/x?q=1 cape.runtime+token |early "
	if !bytes.HasPrefix(got, []byte(head)) || !bytes.Equal(got[len(head):], payload) {
		t.Errorf("got %d bytes that start with %q", len(got), got[:min(len(got), 80)])
	}
	for range 100 {
		if g.Active() == 0 {
			return
		}
		time.Sleep(10 * time.Millisecond)
	}
	t.Error("the connection is still counted after both sides ended")
}

func TestEnclaveEnds(t *testing.T) {
	_, addr := server(t, enclave(t, func(c net.Conn, _ *http.Request, _ *bufio.Reader) { io.WriteString(c, "bye") }), 10)
	conn, err := net.Dial("tcp", addr)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	io.WriteString(conn, upgrade)
	conn.SetReadDeadline(time.Now().Add(10 * time.Second))
	if got, err := io.ReadAll(conn); err != nil || string(got) != "bye" {
		t.Errorf("got %q, %v: the client's connection must end with the enclave's", got, err)
	}
}

func TestRefusals(t *testing.T) {
	down := func(context.Context) (net.Conn, error) { return nil, errors.New("down") }
	for _, c := range []struct {
		name   string
		dial   func(context.Context) (net.Conn, error)
		max    int
		body   string
		status int
	}{
		{"no enclave", down, 10, "", http.StatusServiceUnavailable},
		{"full", enclave(t, echo), 0, "", http.StatusServiceUnavailable},
		{"body", enclave(t, echo), 10, "x", http.StatusBadRequest},
	} {
		t.Run(c.name, func(t *testing.T) {
			_, addr := server(t, c.dial, c.max)
			resp, err := http.Post("http://"+addr+"/v1/key", "text/plain", strings.NewReader(c.body))
			if err != nil {
				t.Fatal(err)
			}
			defer resp.Body.Close()
			var e wire.ErrorBody
			if err := json.NewDecoder(resp.Body).Decode(&e); err != nil || resp.StatusCode != c.status || e.Error == "" || e.Code == "" {
				t.Errorf("status %d, %+v, %v", resp.StatusCode, e, err)
			}
		})
	}
}

func TestPlainRequestIsClosed(t *testing.T) {
	_, addr := server(t, enclave(t, func(c net.Conn, r *http.Request, _ *bufio.Reader) {
		fmt.Fprintf(c, "HTTP/1.1 200 OK\r\nContent-Length: 5\r\nConnection: close\r\n\r\n%5v", r.Close)
	}), 10)
	resp, err := http.Get("http://" + addr + "/v1/user/u/key")
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	if b, err := io.ReadAll(resp.Body); err != nil || string(b) != " true" {
		t.Errorf("%q, %v", b, err)
	}
}

func TestIdleConnectionsAreSmall(t *testing.T) {
	const count = 1000
	g, addr := server(t, enclave(t, echo), count)
	var before, after runtime.MemStats
	runtime.GC()
	runtime.ReadMemStats(&before)
	var conns []net.Conn
	defer func() {
		for _, c := range conns {
			c.Close()
		}
	}()
	for range count {
		c, err := net.Dial("tcp", addr)
		if err != nil {
			t.Fatal(err)
		}
		conns = append(conns, c)
		io.WriteString(c, upgrade)
		c.SetReadDeadline(time.Now().Add(10 * time.Second))
		if _, err := c.Read(make([]byte, 100)); err != nil {
			t.Fatal(err)
		}
	}
	runtime.GC()
	runtime.ReadMemStats(&after)
	each := (int64(after.HeapInuse+after.StackInuse) - int64(before.HeapInuse+before.StackInuse)) / count
	t.Logf("%d bytes each, the test's own two ends included", each)
	if each > 40<<10 || g.Active() != count {
		t.Errorf("%d bytes for each of %d idle connections", each, g.Active())
	}
}
