package vsockproxy

import (
	"bytes"
	"context"
	"errors"
	"io"
	"net"
	"net/netip"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"
)

// server is a TCP server on loopback that runs handle for each connection.
func server(t *testing.T, handle func(net.Conn)) Endpoint {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = l.Close() })
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			go func() {
				defer c.Close()
				handle(c)
			}()
		}
	}()
	return Endpoint{Host: "127.0.0.1", Port: uint16(l.Addr().(*net.TCPAddr).Port), AllowPrivate: true}
}

// echoAtEnd answers with what it got, once it got all of it.
func echoAtEnd(c net.Conn) {
	b, _ := io.ReadAll(c)
	_, _ = c.Write(b)
}

func newProxy(t *testing.T, c Config) *Proxy {
	t.Helper()
	p, err := New(c)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = p.Close() })
	return p
}

func key(t *testing.T, e Endpoint) string {
	t.Helper()
	k, err := endpointKey(e.Host, e.Port)
	if err != nil {
		t.Fatal(err)
	}
	return k
}

// dial gives the enclave's end of a connection through the proxy.
func dial(t *testing.T, p *Proxy, endpoint string) *net.UnixConn {
	t.Helper()
	l, err := net.Listen("unix", filepath.Join(t.TempDir(), "s"))
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	c, err := net.Dial("unix", l.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = c.Close() })
	inner, err := l.Accept()
	if err != nil {
		t.Fatal(err)
	}
	go p.Handle(endpoint)(inner)
	if err := c.SetDeadline(time.Now().Add(20 * time.Second)); err != nil {
		t.Fatal(err)
	}
	return c.(*net.UnixConn)
}

// talk sends all, ends its half, and reads the answer.
func talk(t *testing.T, c *net.UnixConn, send []byte) ([]byte, error) {
	t.Helper()
	go func() {
		_, _ = c.Write(send)
		_ = c.CloseWrite()
	}()
	return io.ReadAll(c)
}

// refused tells whether the proxy closed the connection without an answer.
func refused(t *testing.T, c *net.UnixConn) bool {
	t.Helper()
	b, err := io.ReadAll(c)
	var timeout net.Error
	return len(b) == 0 && (!errors.As(err, &timeout) || !timeout.Timeout())
}

func TestForwardsBothWaysWithHalfClose(t *testing.T) {
	e := server(t, echoAtEnd)
	p := newProxy(t, Config{Allow: []Endpoint{e}})
	for _, size := range []int{0, 1, bufferSize, 3<<20 + 1} {
		want := bytes.Repeat([]byte("0123456789abcdef"), size/16+1)[:size]
		got, err := talk(t, dial(t, p, key(t, e)), want)
		if err != nil || !bytes.Equal(got, want) {
			t.Errorf("%d bytes: got %d, %v", size, len(got), err)
		}
	}
}

func TestRemoteEndsFirst(t *testing.T) {
	got := make(chan string, 1)
	e := server(t, func(c net.Conn) {
		_, _ = io.WriteString(c, "greeting")
		_ = c.(*net.TCPConn).CloseWrite()
		b, _ := io.ReadAll(c)
		got <- string(b)
	})
	c := dial(t, newProxy(t, Config{Allow: []Endpoint{e}}), key(t, e))
	if b, err := io.ReadAll(c); err != nil || string(b) != "greeting" {
		t.Errorf("%q, %v", b, err)
	}
	if _, err := io.WriteString(c, "answer"); err != nil {
		t.Fatal(err)
	}
	_ = c.CloseWrite()
	if s := <-got; s != "answer" {
		t.Errorf("remote got %q", s)
	}
}

func TestOnlyListedEndpoints(t *testing.T) {
	var reached atomic.Int32
	e := server(t, func(c net.Conn) { reached.Add(1); echoAtEnd(c) })
	other := server(t, func(c net.Conn) { reached.Add(1); echoAtEnd(c) })
	for name, c := range map[string]Config{
		"zero value":  {},
		"empty list":  {Allow: []Endpoint{}},
		"other port":  {Allow: []Endpoint{other}},
		"other host":  {Allow: []Endpoint{{Host: "localhost", Port: e.Port, AllowPrivate: true}}},
		"not private": {Allow: []Endpoint{{Host: e.Host, Port: e.Port}}},
	} {
		t.Run(name, func(t *testing.T) {
			p := newProxy(t, c)
			if !refused(t, dial(t, p, key(t, e))) {
				t.Error("was forwarded")
			}
			if l, err := net.Listen("tcp", "127.0.0.1:0"); err != nil {
				t.Fatal(err)
			} else if name != "not private" {
				if err := p.Serve(l, key(t, e)); !errors.Is(err, ErrDenied) {
					t.Errorf("Serve: %v", err)
				}
				_ = l.Close()
			}
		})
	}
	for _, bad := range []string{"", "127.0.0.1", "127.0.0.1:", "127.0.0.1:x", ":443", "a b:443", "127.0.0.1:443:1"} {
		if newProxy(t, Config{Allow: []Endpoint{e}}).Allowed(bad) {
			t.Errorf("%q is allowed", bad)
		}
	}
	if reached.Load() != 0 {
		t.Error("a server was reached")
	}
}

func TestNamesAreComparedWithoutCase(t *testing.T) {
	p := newProxy(t, Config{Allow: []Endpoint{{Host: "KMS.Example.com.", Port: 443}, {Host: "::ffff:192.0.2.1", Port: 1}}})
	for _, s := range []string{"kms.example.com:443", "KMS.example.COM.:443", "192.0.2.1:1"} {
		if !p.Allowed(s) {
			t.Errorf("%s is not allowed", s)
		}
	}
}

func TestPrivateAddressesAreRefused(t *testing.T) {
	e := server(t, echoAtEnd)
	p := newProxy(t, Config{})
	for _, a := range []string{
		"127.0.0.1", "127.8.8.8", "10.0.0.1", "172.16.0.1", "192.168.1.1", "169.254.169.254", "0.0.0.0", "0.1.2.3", "100.64.0.1",
		"192.0.2.1", "198.18.0.1", "224.0.0.1", "255.255.255.255", "240.0.0.1",
		"::", "::1", "::ffff:127.0.0.1", "::ffff:10.0.0.1", "::ffff:100.64.0.1", "::127.0.0.1", "fe80::1", "fe80::1%eth0", "fc00::1", "fd00:ec2::254", "fec0::1", "ff02::1",
		"64:ff9b::7f00:1", "64:ff9b:1::a00:1", "2002:7f00:1::", "2001::1", "2001:db8::1", "2606:4700::1111%eth0",
	} {
		if p.reachable(netip.MustParseAddr(a), false) {
			t.Errorf("%s counts as public", a)
		}
	}
	for _, a := range []string{"8.8.8.8", "52.94.0.1", "2606:4700::1111", "::ffff:8.8.8.8"} {
		if !p.reachable(netip.MustParseAddr(a), false) {
			t.Errorf("%s does not count as public", a)
		}
	}
	for _, a := range []string{"127.0.0.1", "10.0.0.1", "169.254.1.1", "::1", "fd00::1"} {
		if !p.reachable(netip.MustParseAddr(a), true) {
			t.Errorf("%s is refused although allowed", a)
		}
	}
	for _, a := range []string{"0.0.0.0", "::", "224.0.0.1", "ff02::1"} {
		if p.reachable(netip.MustParseAddr(a), true) {
			t.Errorf("%s is never a destination", a)
		}
	}
	// What no registry has given out is no address of the public Internet, and some of it is another name
	// for IPv4: here RFC 6145's and one of a local translator.
	for _, a := range []string{"::ffff:0:127.0.0.1", "::ffff:0:10.0.0.1", "64:ff9c::a00:1", "400::1", "4000::1", "a000::1", "e000::1", "f000::1", "fe00::1"} {
		if p.reachable(netip.MustParseAddr(a), false) {
			t.Errorf("%s counts as public", a)
		}
	}
	// A public name that resolves to a private address, as in DNS rebinding.
	resolve := func(context.Context, string) ([]netip.Addr, error) {
		return []netip.Addr{netip.MustParseAddr("127.0.0.1"), netip.MustParseAddr("::ffff:127.0.0.1")}, nil
	}
	name := Endpoint{Host: "kms.example.com", Port: e.Port}
	if c := dial(t, newProxy(t, Config{Allow: []Endpoint{name}, Resolve: resolve}), key(t, name)); !refused(t, c) {
		t.Error("name that resolves to loopback was forwarded")
	}
	name.AllowPrivate = true
	if got, err := talk(t, dial(t, newProxy(t, Config{Allow: []Endpoint{name}, Resolve: resolve}), key(t, name)), []byte("x")); err != nil || string(got) != "x" {
		t.Errorf("with allow_private: %q, %v", got, err)
	}
}

// Private addresses are allowed for networks; the machine's metadata service, which has its credentials, is
// reached by no name that somebody's resolver answers.
func TestNamesNeverLeadToMetadata(t *testing.T) {
	for _, a := range []string{"169.254.169.254", "::ffff:169.254.169.254", "fe80::1", "fd00:ec2::254"} {
		resolve := func(context.Context, string) ([]netip.Addr, error) { return []netip.Addr{netip.MustParseAddr(a)}, nil }
		name := Endpoint{Host: "kms.example.com", Port: 80, AllowPrivate: true}
		p := newProxy(t, Config{Allow: []Endpoint{name}, Resolve: resolve})
		if _, err := p.dial(name); !errors.Is(err, ErrDenied) {
			t.Errorf("a name that resolves to %s: %v", a, err)
		}
	}
}

func TestResolvesForEveryConnection(t *testing.T) {
	e := server(t, echoAtEnd)
	name := Endpoint{Host: "kms.example.com", Port: e.Port, AllowPrivate: true}
	var calls atomic.Int32
	p := newProxy(t, Config{Allow: []Endpoint{name}, Resolve: func(_ context.Context, host string) ([]netip.Addr, error) {
		if host != name.Host {
			t.Errorf("resolves %q", host)
		}
		switch calls.Add(1) {
		case 1:
			return nil, errors.New("no such name")
		case 2:
			return nil, nil
		}
		// The first address never answers; the second does.
		return []netip.Addr{netip.MustParseAddr("0.0.0.0"), netip.MustParseAddr("127.255.255.254"), netip.MustParseAddr("127.0.0.1")}, nil
	}})
	for range 2 {
		if !refused(t, dial(t, p, key(t, name))) {
			t.Error("forwarded without an address")
		}
	}
	if got, err := talk(t, dial(t, p, key(t, name)), []byte("x")); err != nil || string(got) != "x" {
		t.Errorf("%q, %v", got, err)
	}
}

func TestFamilies(t *testing.T) {
	four, six := netip.MustParseAddr("8.8.8.8"), netip.MustParseAddr("2606:4700::1111")
	for _, tc := range []struct {
		f         Family
		four, six bool
	}{{AnyFamily, true, true}, {IPv4Only, true, false}, {IPv6Only, false, true}} {
		p := newProxy(t, Config{Family: tc.f})
		if p.reachable(four, false) != tc.four || p.reachable(six, false) != tc.six {
			t.Errorf("family %d", tc.f)
		}
	}
}

func TestConnectionLimit(t *testing.T) {
	e := server(t, echoAtEnd)
	p := newProxy(t, Config{Allow: []Endpoint{e}, MaxConns: 2})
	a, b := dial(t, p, key(t, e)), dial(t, p, key(t, e))
	for range 500 {
		if p.stats.of(key(t, e)).active.Load() == 2 {
			break
		}
		time.Sleep(10 * time.Millisecond)
	}
	if !refused(t, dial(t, p, key(t, e))) {
		t.Error("third connection was forwarded")
	}
	for _, c := range []*net.UnixConn{a, b} {
		if got, err := talk(t, c, []byte("x")); err != nil || string(got) != "x" {
			t.Errorf("%q, %v", got, err)
		}
	}
	for range 500 {
		if len(p.slots) == 0 {
			break
		}
		time.Sleep(10 * time.Millisecond)
	}
	if got, err := talk(t, dial(t, p, key(t, e)), []byte("x")); err != nil || string(got) != "x" {
		t.Errorf("after the others ended: %q, %v", got, err)
	}
}

func TestIdleConnectionsEnd(t *testing.T) {
	e := server(t, func(c net.Conn) { _, _ = io.Copy(c, c) })
	p := newProxy(t, Config{Allow: []Endpoint{e}, Idle: 400 * time.Millisecond})
	c := dial(t, p, key(t, e))
	start := time.Now()
	for i := range 4 { // traffic keeps it open past the limit
		time.Sleep(200 * time.Millisecond)
		if _, err := c.Write([]byte{byte(i)}); err != nil {
			t.Fatalf("closed after %v: %v", time.Since(start), err)
		}
		if _, err := io.ReadFull(c, make([]byte, 1)); err != nil {
			t.Fatalf("closed after %v: %v", time.Since(start), err)
		}
	}
	if !refused(t, c) {
		t.Error("idle connection stays open")
	}
}

// A side that never reads does not hold the connection for ever.
func TestStalledReaderEnds(t *testing.T) {
	e := server(t, func(c net.Conn) { <-t.Context().Done() })
	p := newProxy(t, Config{Allow: []Endpoint{e}, Idle: 300 * time.Millisecond})
	c := dial(t, p, key(t, e))
	buf := make([]byte, 1<<20)
	for range 100 {
		if _, err := c.Write(buf); err != nil {
			var timeout net.Error
			if errors.As(err, &timeout) && timeout.Timeout() {
				t.Error("stalled connection stays open")
			}
			return
		}
	}
	t.Error("100 MiB went nowhere")
}

func TestCloseEndsEverything(t *testing.T) {
	e := server(t, func(c net.Conn) { _, _ = io.Copy(io.Discard, c) })
	p := newProxy(t, Config{Allow: []Endpoint{e}})
	l, err := net.Listen("unix", filepath.Join(t.TempDir(), "s"))
	if err != nil {
		t.Fatal(err)
	}
	served := make(chan error, 1)
	go func() { served <- p.Serve(l, key(t, e)) }()
	c, err := net.Dial("unix", l.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	for p.stats.of(key(t, e)).active.Load() == 0 {
		time.Sleep(5 * time.Millisecond)
	}
	if err := p.Close(); err != nil {
		t.Fatal(err)
	}
	if err := <-served; err != nil {
		t.Errorf("Serve: %v", err)
	}
	_ = c.SetDeadline(time.Now().Add(10 * time.Second))
	if _, err := io.ReadAll(c); errors.Is(err, context.DeadlineExceeded) {
		t.Error("connection survives")
	}
	if !refused(t, dial(t, p, key(t, e))) {
		t.Error("forwards after Close")
	}
	if err := p.Close(); err != nil {
		t.Error(err)
	}
}

func TestNewRefuses(t *testing.T) {
	for name, c := range map[string]Config{
		"no host":        {Allow: []Endpoint{{Port: 1}}},
		"no port":        {Allow: []Endpoint{{Host: "a"}}},
		"wildcard":       {Allow: []Endpoint{{Host: "*.a", Port: 1}}},
		"URL":            {Allow: []Endpoint{{Host: "https://a", Port: 1}}},
		"contradiction":  {Allow: []Endpoint{{Host: "a", Port: 1}, {Host: "A", Port: 1, AllowPrivate: true}}},
		"negative limit": {MaxConns: -1},
		"negative idle":  {Idle: -1},
		"family":         {Family: 7},
	} {
		if _, err := New(c); !errors.Is(err, ErrConfig) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestMetrics(t *testing.T) {
	e := server(t, echoAtEnd)
	p := newProxy(t, Config{Allow: []Endpoint{e}})
	if _, err := talk(t, dial(t, p, key(t, e)), []byte("12345")); err != nil {
		t.Fatal(err)
	}
	refused(t, dial(t, p, "example.com:443"))
	for range 500 {
		if p.stats.of(key(t, e)).active.Load() == 0 {
			break
		}
		time.Sleep(10 * time.Millisecond)
	}
	var b strings.Builder
	if err := p.WriteMetrics(&b); err != nil {
		t.Fatal(err)
	}
	k := key(t, e)
	for _, want := range []string{
		`vsock_proxy_connections_total{endpoint="` + k + `",outcome="opened"} 1`,
		`vsock_proxy_bytes_total{endpoint="` + k + `",direction="sent"} 5`,
		`vsock_proxy_bytes_total{endpoint="` + k + `",direction="received"} 5`,
		`vsock_proxy_connections_active{endpoint="` + k + `"} 0`,
		"vsock_proxy_unlisted_total 1",
	} {
		if !strings.Contains(b.String(), want+"\n") {
			t.Errorf("no %s in\n%s", want, b.String())
		}
	}
}
