package gateway

import (
	"bufio"
	"bytes"
	"context"
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
	"path/filepath"
	"runtime"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

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

type dialer = func(context.Context) (net.Conn, error)

func server(t *testing.T, dial dialer, max int) (*Gateway, *httptest.Server) {
	t.Helper()
	g := New(Config{Dial: dial, Max: max, Log: slog.New(slog.DiscardHandler)})
	mux := http.NewServeMux()
	mux.Handle("/v1/", g)
	mux.HandleFunc("/own", func(w http.ResponseWriter, _ *http.Request) { io.WriteString(w, "own") })
	s := httptest.NewServer(mux)
	t.Cleanup(func() { g.Close(); s.Close() })
	return g, s
}

const (
	upgrade = "GET /v1/run/x?q=1 HTTP/1.1\r\nHost: h\r\nConnection: keep-alive, Upgrade\r\nKeep-Alive: 5\r\nUpgrade: websocket\r\n" +
		"Sec-WebSocket-Protocol: cape.runtime\r\nSec-WebSocket-Protocol: token\r\n\r\n"
	switched = "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nSec-Websocket-Protocol: cape.runtime\r\nUpgrade: websocket\r\n\r\n"
)

// echo switches protocols, tells what it was asked, and repeats what follows.
func echo(conn net.Conn, r *http.Request, rest *bufio.Reader) {
	io.WriteString(conn, switched)
	fmt.Fprintf(conn, "%s %s %v|", r.RequestURI, r.Host, strings.Join(r.Header["Sec-Websocket-Protocol"], "+"))
	io.Copy(conn, rest)
}

const told = switched + "/v1/run/x?q=1 h cape.runtime+token|"

func dialTCP(t *testing.T, s *httptest.Server) *net.TCPConn {
	t.Helper()
	conn, err := net.Dial("tcp", s.Listener.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	if err := conn.SetReadDeadline(time.Now().Add(20 * time.Second)); err != nil {
		t.Fatal(err)
	}
	return conn.(*net.TCPConn)
}

func waitFor(t *testing.T, what string, ok func() bool) {
	t.Helper()
	for range 500 {
		if ok() {
			return
		}
		time.Sleep(10 * time.Millisecond)
	}
	t.Fatalf("waited too long: %s", what)
}

func random(n int) []byte {
	b := make([]byte, n)
	rand.Read(b)
	return b
}

func TestCarries(t *testing.T) {
	g, s := server(t, enclave(t, echo), 10)
	conn := dialTCP(t, s)
	payload := random(5 << 20)
	go func() {
		io.WriteString(conn, upgrade+"early ")
		conn.Write(payload)
		conn.CloseWrite()
	}()
	got, err := io.ReadAll(conn)
	if err != nil {
		t.Fatal(err)
	}
	head := told + "early "
	if !bytes.HasPrefix(got, []byte(head)) || !bytes.Equal(got[len(head):], payload) {
		t.Errorf("got %d bytes that start with %q", len(got), got[:min(len(got), 300)])
	}
	waitFor(t, "the connection is still counted", func() bool { return g.Active() == 0 })
}

func TestCarriesTLS(t *testing.T) {
	g := New(Config{Dial: enclave(t, echo), Max: 10, Log: slog.New(slog.DiscardHandler)})
	s := httptest.NewTLSServer(g)
	defer s.Close()
	defer g.Close()
	conn, err := tls.Dial("tcp", s.Listener.Addr().String(), &tls.Config{InsecureSkipVerify: true})
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	conn.SetReadDeadline(time.Now().Add(20 * time.Second))
	payload := random(1 << 20)
	go func() {
		io.WriteString(conn, upgrade)
		conn.Write(payload)
		conn.CloseWrite()
	}()
	got, err := io.ReadAll(conn)
	if err != nil || !bytes.Equal(got, append([]byte(told), payload...)) {
		t.Errorf("%d bytes, %v", len(got), err)
	}
}

func TestRequestHead(t *testing.T) {
	heads := make(chan http.Header, 1)
	_, s := server(t, enclave(t, func(c net.Conn, r *http.Request, _ *bufio.Reader) {
		heads <- r.Header
		io.WriteString(c, "HTTP/1.1 204 No Content\r\n\r\n")
	}), 10)
	for _, c := range []struct {
		name, request string
		want          http.Header
	}{
		{"upgrade", upgrade, http.Header{"Connection": {"Upgrade"}, "Upgrade": {"websocket"}, "Sec-Websocket-Protocol": {"cape.runtime", "token"}}},
		{"plain", "GET /v1/user/u/key HTTP/1.1\r\nHost: h\r\nX-A: 1\r\nX-A: 2\r\nX-B: 3\r\nTE: x\r\nConnection: X-B\r\n\r\n", http.Header{"Connection": {"close"}, "X-A": {"1", "2"}}},
		{"upgrade unasked", "GET /v1/key HTTP/1.1\r\nHost: h\r\nUpgrade: websocket\r\n\r\n", http.Header{"Connection": {"close"}}},
	} {
		t.Run(c.name, func(t *testing.T) {
			conn := dialTCP(t, s)
			io.WriteString(conn, c.request)
			if d := cmp.Diff(c.want, <-heads); d != "" {
				t.Error(d)
			}
		})
	}
}

// An enclave that ends while the client still writes must not cost the client
// the enclave's last words: a reset would.
func TestLastWords(t *testing.T) {
	g, s := server(t, enclave(t, func(c net.Conn, _ *http.Request, r *bufio.Reader) {
		io.WriteString(c, switched)
		io.CopyN(io.Discard, r, 100<<10)
		io.WriteString(c, "bye")
	}), 10)
	conn := dialTCP(t, s)
	go func() {
		io.WriteString(conn, upgrade)
		conn.Write(random(20 << 20))
		conn.CloseWrite()
	}()
	if got, err := io.ReadAll(conn); err != nil || string(got) != switched+"bye" {
		t.Errorf("got %q, %v", got, err)
	}
	waitFor(t, "the connection is still counted", func() bool { return g.Active() == 0 })
}

func TestClientLeaves(t *testing.T) {
	ended := make(chan error, 1)
	g, s := server(t, enclave(t, func(c net.Conn, _ *http.Request, r *bufio.Reader) {
		io.WriteString(c, switched)
		_, err := io.Copy(io.Discard, r)
		ended <- err
	}), 10)
	conn := dialTCP(t, s)
	io.WriteString(conn, upgrade)
	if _, err := io.ReadFull(conn, make([]byte, len(switched))); err != nil {
		t.Fatal(err)
	}
	conn.SetLinger(0) // a reset, as from a client that was killed
	conn.Close()
	<-ended
	waitFor(t, "the connection is still counted", func() bool { return g.Active() == 0 })
}

func TestRefusals(t *testing.T) {
	down := func(context.Context) (net.Conn, error) { return nil, errors.New("down") }
	says := func(text string) dialer {
		return enclave(t, func(c net.Conn, _ *http.Request, _ *bufio.Reader) { io.WriteString(c, text) })
	}
	for _, c := range []struct {
		name   string
		dial   dialer
		max    int
		body   string
		status int
	}{
		{"no enclave", down, 10, "", http.StatusServiceUnavailable},
		{"full", enclave(t, echo), 0, "", http.StatusServiceUnavailable},
		{"body", enclave(t, echo), 10, "x", http.StatusBadRequest},
		{"enclave says nothing", says(""), 10, "", http.StatusServiceUnavailable},
		{"enclave says garbage", says("garbage\r\n\r\n"), 10, "", http.StatusServiceUnavailable},
		{"enclave's head never ends", says("HTTP/1.1 200 OK\r\nA: " + strings.Repeat("a", 2*wire.MaxHeader)), 10, "", http.StatusServiceUnavailable},
		{"switch unasked", says(switched), 10, "", http.StatusServiceUnavailable},
	} {
		t.Run(c.name, func(t *testing.T) {
			g, s := server(t, c.dial, c.max)
			resp, err := http.Post(s.URL+"/v1/key", "text/plain", strings.NewReader(c.body))
			if err != nil {
				t.Fatal(err)
			}
			defer resp.Body.Close()
			var e wire.ErrorBody
			if err := json.NewDecoder(resp.Body).Decode(&e); err != nil || resp.StatusCode != c.status || e.Error == "" || e.Code == "" {
				t.Errorf("status %d, %+v, %v", resp.StatusCode, e, err)
			}
			waitFor(t, "the connection is still counted", func() bool { return g.Active() == 0 })
		})
	}
}

// A connection whose upgrade was refused belongs to the HTTP server again: what
// it asks next must not end up in the enclave.
func TestOtherAnswersKeepTheConnection(t *testing.T) {
	_, s := server(t, enclave(t, func(c net.Conn, r *http.Request, _ *bufio.Reader) {
		fmt.Fprintf(c, "HTTP/1.1 401 Unauthorized\r\nContent-Length: 4\r\nWWW-Authenticate: x\r\n\r\nno: ")
	}), 10)
	conn := dialTCP(t, s)
	replies := bufio.NewReader(conn)
	for _, c := range []struct {
		request string
		status  int
		body    string
	}{{upgrade, 401, "no: "}, {"GET /own HTTP/1.1\r\nHost: h\r\n\r\n", 200, "own"}, {"GET /v1/user/u/key HTTP/1.1\r\nHost: h\r\n\r\n", 401, "no: "}} {
		io.WriteString(conn, c.request)
		resp, err := http.ReadResponse(replies, nil)
		if err != nil {
			t.Fatal(err)
		}
		body, err := io.ReadAll(resp.Body)
		if err != nil || resp.StatusCode != c.status || string(body) != c.body || resp.Close {
			t.Errorf("%q: %d %q %v", c.request[:20], resp.StatusCode, body, err)
		}
	}
}

func TestAnswerCutShort(t *testing.T) {
	g, s := server(t, enclave(t, func(c net.Conn, r *http.Request, _ *bufio.Reader) {
		io.WriteString(c, "HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nhalf")
	}), 10)
	resp, err := http.Get(s.URL + "/v1/user/u/key")
	if err == nil {
		defer resp.Body.Close()
		_, err = io.ReadAll(resp.Body)
	}
	if err == nil {
		t.Error("half an answer looks whole")
	}
	waitFor(t, "the connection is still counted", func() bool { return g.Active() == 0 })
}

func TestClientLeavesBeforeTheAnswer(t *testing.T) {
	gone := make(chan struct{})
	_, s := server(t, enclave(t, func(c net.Conn, _ *http.Request, r *bufio.Reader) {
		io.Copy(io.Discard, r) // answers nothing
		close(gone)
	}), 10)
	conn := dialTCP(t, s)
	io.WriteString(conn, upgrade)
	time.Sleep(50 * time.Millisecond)
	conn.Close()
	select {
	case <-gone:
	case <-time.After(10 * time.Second):
		t.Error("the enclave's connection outlives the client")
	}
}

func TestCloseEndsAll(t *testing.T) {
	silent := enclave(t, func(c net.Conn, _ *http.Request, r *bufio.Reader) { io.Copy(io.Discard, r) })
	for name, dial := range map[string]dialer{"carried": enclave(t, echo), "waiting for an answer": silent} {
		t.Run(name, func(t *testing.T) {
			g, s := server(t, dial, 10)
			conn := dialTCP(t, s)
			io.WriteString(conn, upgrade)
			waitFor(t, "no connection", func() bool { return g.Active() == 1 })
			time.Sleep(50 * time.Millisecond)
			closed := make(chan struct{})
			go func() { g.Close(); close(closed) }()
			select {
			case <-closed:
			case <-time.After(3 * time.Second):
				t.Fatal("Close hangs")
			}
			if g.Active() != 0 {
				t.Error("a connection outlives Close")
			}
		})
	}
}

// idleCount is 10,000, or as many as the descriptors of one process allow when
// it has both ends of both sides.
func idleCount(t *testing.T) int {
	t.Helper()
	if testing.Short() {
		return 200
	}
	const most, each, others = 10_000, 4, 500
	limit := syscall.Rlimit{Cur: most*each + others, Max: most*each + others}
	if syscall.Setrlimit(syscall.RLIMIT_NOFILE, &limit) == nil { // may be more than is allowed
		return most
	}
	if err := syscall.Getrlimit(syscall.RLIMIT_NOFILE, &limit); err != nil {
		t.Fatal(err)
	}
	return min(most, (int(limit.Cur)-others)/each)
}

func TestIdleConnectionsAreSmall(t *testing.T) {
	count := idleCount(t)
	g, s := server(t, enclave(t, echo), count)
	message := random(burst + 16<<10) // more than one buffer
	buf := make([]byte, len(told)+len(message))
	var before, after runtime.MemStats
	runtime.GC()
	runtime.ReadMemStats(&before)
	var conns []net.Conn
	for range count {
		c := dialTCP(t, s)
		conns = append(conns, c)
		io.WriteString(c, upgrade)
		// Data flowed once, in both directions: what that borrowed must be back.
		go c.Write(message)
		if _, err := io.ReadFull(c, buf); err != nil {
			t.Fatal(err)
		}
	}
	for range 3 { // pools are emptied in two rounds
		runtime.GC()
	}
	runtime.ReadMemStats(&after)
	each := (int64(after.HeapInuse+after.StackInuse) - int64(before.HeapInuse+before.StackInuse)) / int64(count)
	t.Logf("%d connections, %d bytes each, the other ends of this test included", count, each)
	if each > 40<<10 || g.Active() != count {
		t.Errorf("%d bytes for each of %d idle connections", each, g.Active())
	}
	runtime.KeepAlive(conns)
}
