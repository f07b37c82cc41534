// Package vsockproxy forwards connections of an enclave to allow-listed TCP
// endpoints. It moves bytes: TLS ends in the enclave, and the list is no
// control that anybody's secrets rest on, only a bound on what an enclave's
// parent can be used for.
package vsockproxy

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/netip"
	"slices"
	"strconv"
	"sync"
	"syscall"
	"time"
)

// Endpoint is an allowed destination.
type Endpoint struct {
	// Host is a name or an IP address literal.
	Host string
	// Port is the TCP port, 1 to 65535.
	Port uint16
	// AllowPrivate allows addresses that are private, loopback, link-local or
	// otherwise not of the public Internet.
	AllowPrivate bool
}

var (
	// ErrConfig is wrapped by New when the configuration cannot be used.
	ErrConfig = errors.New("unusable proxy configuration")
	// ErrDenied: the destination is not on the list, or resolves to an address that
	// the list does not allow.
	ErrDenied = errors.New("destination is not allowed")
)

// Config says where connections may go. The zero value allows nothing.
type Config struct {
	// Allow lists the destinations; none means that every connection is refused.
	Allow []Endpoint
	// MaxConns bounds connections at once; 0 means 256.
	MaxConns int
	// Idle closes a connection on which nothing moved in either direction; 0 means
	// 60 seconds.
	Idle time.Duration
	// DialTimeout bounds resolving and connecting; 0 means 10 seconds.
	DialTimeout time.Duration
	// Log may be nil.
	Log *slog.Logger
}

// Proxy forwards connections. It is safe for concurrent use.
type Proxy struct {
	cfg   Config
	allow map[string]Endpoint
	slots chan struct{}

	mu     sync.Mutex
	closed bool
	conns  map[net.Conn]struct{}
	done   sync.WaitGroup
}

// New checks the configuration.
func New(c Config) (*Proxy, error) {
	if c.MaxConns == 0 {
		c.MaxConns = 256
	}
	if c.Idle == 0 {
		c.Idle = 60 * time.Second
	}
	if c.DialTimeout == 0 {
		c.DialTimeout = 10 * time.Second
	}
	if c.Log == nil {
		c.Log = slog.New(slog.DiscardHandler)
	}
	if c.MaxConns < 0 || c.Idle < 0 || c.DialTimeout < 0 {
		return nil, fmt.Errorf("%w: limits must be positive", ErrConfig)
	}
	p := &Proxy{cfg: c, allow: map[string]Endpoint{}, slots: make(chan struct{}, c.MaxConns), conns: map[net.Conn]struct{}{}}
	for _, e := range c.Allow {
		if e.Host == "" || e.Port == 0 {
			return nil, fmt.Errorf("%w: an endpoint needs a host and a port", ErrConfig)
		}
		p.allow[e.String()] = e
	}
	return p, nil
}

// String is "host:port", the name of an endpoint.
func (e Endpoint) String() string { return net.JoinHostPort(e.Host, strconv.Itoa(int(e.Port))) }

// Handle returns a handler that forwards each connection to endpoint,
// "host:port" as in Config.Allow, and closes it. A connection for an endpoint
// that is not on the list is closed at once.
func (p *Proxy) Handle(endpoint string) func(net.Conn) {
	return func(c net.Conn) {
		if !p.track(c) {
			c.Close()
			return
		}
		defer p.done.Done()
		defer p.drop(c)
		e, listed := p.allow[endpoint]
		if !listed {
			p.cfg.Log.Warn("destination refused", "endpoint", endpoint)
			return
		}
		select {
		case p.slots <- struct{}{}:
			defer func() { <-p.slots }()
		default:
			p.cfg.Log.Warn("too many connections", "endpoint", endpoint)
			return
		}
		p.forward(c, e)
	}
}

func (p *Proxy) track(c net.Conn) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.closed {
		return false
	}
	p.conns[c] = struct{}{}
	p.done.Add(1)
	return true
}

func (p *Proxy) drop(c net.Conn) {
	c.Close()
	p.mu.Lock()
	delete(p.conns, c)
	p.mu.Unlock()
}

func (p *Proxy) forward(c net.Conn, e Endpoint) {
	ctx, cancel := context.WithTimeout(context.Background(), p.cfg.DialTimeout)
	out, err := p.dial(ctx, e)
	cancel()
	if err != nil {
		p.cfg.Log.Warn("destination not reached", "endpoint", e.String(), "error", err)
		return
	}
	if !p.track(out) {
		out.Close()
		return
	}
	defer p.done.Done()
	defer p.drop(out)
	back := make(chan struct{})
	go func() {
		defer close(back)
		p.copy(c, out)
	}()
	p.copy(out, c)
	<-back
}

// dial resolves the name anew and connects to the first address that answers.
// Each address is checked when it is dialled, so a name cannot change in between.
func (p *Proxy) dial(ctx context.Context, e Endpoint) (net.Conn, error) {
	d := net.Dialer{ControlContext: func(_ context.Context, _, address string, _ syscall.RawConn) error {
		a, err := netip.ParseAddrPort(address)
		if err != nil {
			return err
		}
		if !e.AllowPrivate && !public(a.Addr()) {
			return fmt.Errorf("%w: it resolves to %s", ErrDenied, a.Addr())
		}
		return nil
	}}
	return d.DialContext(ctx, "tcp", e.String())
}

// public tells whether an address is of the public Internet.
func public(a netip.Addr) bool {
	a = a.Unmap()
	if !a.IsGlobalUnicast() || a.IsPrivate() {
		return false
	}
	return !slices.ContainsFunc(reserved, func(p netip.Prefix) bool { return p.Contains(a) })
}

// reserved are ranges that net/netip does not call private: carrier-grade NAT,
// protocol assignments, documentation, benchmarks, class E, and forms of IPv6
// that carry an IPv4 address.
var reserved = []netip.Prefix{
	netip.MustParsePrefix("0.0.0.0/8"), netip.MustParsePrefix("100.64.0.0/10"), netip.MustParsePrefix("192.0.0.0/24"), netip.MustParsePrefix("192.0.2.0/24"),
	netip.MustParsePrefix("198.18.0.0/15"), netip.MustParsePrefix("198.51.100.0/24"), netip.MustParsePrefix("203.0.113.0/24"), netip.MustParsePrefix("240.0.0.0/4"),
	netip.MustParsePrefix("64:ff9b::/96"), netip.MustParsePrefix("64:ff9b:1::/48"), netip.MustParsePrefix("2001::/32"), netip.MustParsePrefix("2001:db8::/32"), netip.MustParsePrefix("2002::/16"),
}

// copy moves bytes one way until src ends, and then ends that direction of dst.
// What moves either way keeps both directions alive.
func (p *Proxy) copy(dst, src net.Conn) {
	buf := make([]byte, 16<<10)
	for {
		limit := time.Now().Add(p.cfg.Idle)
		if errors.Join(src.SetReadDeadline(limit), dst.SetWriteDeadline(limit)) != nil {
			break
		}
		n, err := src.Read(buf)
		if n > 0 {
			// The other direction is alive as well: it must not time out while an answer is long.
			if dst.SetReadDeadline(time.Now().Add(p.cfg.Idle)) != nil {
				break
			}
			if _, err := dst.Write(buf[:n]); err != nil {
				break
			}
		}
		if errors.Is(err, io.EOF) {
			if half, ok := dst.(interface{ CloseWrite() error }); ok && half.CloseWrite() == nil {
				return
			}
		}
		if err != nil {
			break
		}
	}
	src.Close()
	dst.Close()
}

// Close ends all connections and waits for their handlers.
func (p *Proxy) Close() error {
	p.mu.Lock()
	p.closed = true
	for c := range p.conns {
		c.Close()
	}
	p.mu.Unlock()
	p.done.Wait()
	return nil
}
