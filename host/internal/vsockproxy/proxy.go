package vsockproxy

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"regexp"
	"strconv"
	"strings"
	"sync"
	"time"
)

// maxAddresses bounds how many addresses of one name are tried.
const maxAddresses = 8

// Proxy forwards connections. It is safe for concurrent use.
type Proxy struct {
	allow       map[string]Endpoint // by "host:port"
	family      Family
	special     []netip.Prefix
	idle        time.Duration
	dialTimeout time.Duration
	resolve     func(context.Context, string) ([]netip.Addr, error)
	log         *slog.Logger
	slots       chan struct{}
	stats       stats
	ctx         context.Context // ends with Close
	cancel      context.CancelFunc

	mu      sync.Mutex
	closed  bool
	open    map[net.Conn]struct{}
	running sync.WaitGroup
}

var hostPattern = regexp.MustCompile(`^[A-Za-z0-9]([A-Za-z0-9-]{0,61}[A-Za-z0-9])?(\.[A-Za-z0-9]([A-Za-z0-9-]{0,61}[A-Za-z0-9])?)*$`)

// endpointKey is the form in which endpoints are compared: lower case, without
// a final dot, addresses in their canonical form.
func endpointKey(host string, port uint16) (string, error) {
	if a, err := netip.ParseAddr(host); err == nil {
		host = a.Unmap().String()
	} else if host = strings.ToLower(strings.TrimSuffix(host, ".")); len(host) > 253 || !hostPattern.MatchString(host) {
		return "", fmt.Errorf("%w: %q is neither a host name nor an IP address", ErrConfig, host)
	}
	if port == 0 {
		return "", fmt.Errorf("%w: %s needs a port from 1 to 65535", ErrConfig, host)
	}
	return net.JoinHostPort(host, strconv.Itoa(int(port))), nil
}

// New checks the configuration. Errors wrap ErrConfig.
func New(c Config) (*Proxy, error) {
	if c.MaxConns < 0 || c.Idle < 0 || c.DialTimeout < 0 || c.Family < AnyFamily || c.Family > IPv6Only {
		return nil, fmt.Errorf("%w: a limit is negative or the family unknown", ErrConfig)
	}
	p := &Proxy{
		allow: map[string]Endpoint{}, family: c.Family, special: special(),
		idle: c.Idle, dialTimeout: c.DialTimeout, resolve: c.Resolve, log: c.Log,
		open: map[net.Conn]struct{}{},
	}
	if p.idle == 0 {
		p.idle = DefaultIdle
	}
	if p.dialTimeout == 0 {
		p.dialTimeout = DefaultDialTimeout
	}
	if p.resolve == nil {
		p.resolve = func(ctx context.Context, host string) ([]netip.Addr, error) {
			return net.DefaultResolver.LookupNetIP(ctx, "ip", host)
		}
	}
	if p.log == nil {
		p.log = slog.New(slog.DiscardHandler)
	}
	if c.MaxConns == 0 {
		c.MaxConns = DefaultMaxConns
	}
	p.slots = make(chan struct{}, c.MaxConns)
	for _, e := range c.Allow {
		key, err := endpointKey(e.Host, e.Port)
		if err != nil {
			return nil, err
		}
		if have, twice := p.allow[key]; twice && have.AllowPrivate != e.AllowPrivate {
			return nil, fmt.Errorf("%w: %s is listed twice, once with allow_private and once without", ErrConfig, key)
		}
		p.allow[key] = e
	}
	p.stats.prepare(p.allow)
	p.ctx, p.cancel = context.WithCancel(context.Background())
	return p, nil
}

// Allowed tells whether endpoint, "host:port", is on the list.
func (p *Proxy) Allowed(endpoint string) bool {
	_, _, err := p.find(endpoint)
	return err == nil
}

func (p *Proxy) find(endpoint string) (string, Endpoint, error) {
	host, port, err := net.SplitHostPort(endpoint)
	if err != nil {
		return "", Endpoint{}, fmt.Errorf("%w: %q is not of the form host:port", ErrDenied, endpoint)
	}
	n, err := strconv.ParseUint(port, 10, 16)
	if err != nil {
		return "", Endpoint{}, fmt.Errorf("%w: %q has no port", ErrDenied, endpoint)
	}
	key, err := endpointKey(host, uint16(n))
	if err != nil {
		return "", Endpoint{}, fmt.Errorf("%w: %s", ErrDenied, endpoint)
	}
	e, ok := p.allow[key]
	if !ok {
		return "", Endpoint{}, fmt.Errorf("%w: %s is not on the allow list", ErrDenied, key)
	}
	return key, e, nil
}

// Handle returns a handler that forwards each connection to endpoint,
// "host:port" as in Config.Allow, and closes it. It returns when the
// connection has ended. A connection for an endpoint that is not on the list
// is closed at once.
func (p *Proxy) Handle(endpoint string) func(net.Conn) {
	key, e, err := p.find(endpoint)
	return func(c net.Conn) {
		if err != nil {
			p.stats.denied.Add(1)
			p.log.Warn("connection refused", "endpoint", endpoint, "reason", err.Error())
			_ = c.Close()
			return
		}
		p.handle(c, key, e)
	}
}

func (p *Proxy) handle(c net.Conn, key string, e Endpoint) {
	defer c.Close()
	s := p.stats.of(key)
	select {
	case p.slots <- struct{}{}:
		defer func() { <-p.slots }()
	default:
		s.full.Add(1)
		p.log.Warn("connection refused", "endpoint", key, "reason", "too many connections", "limit", cap(p.slots))
		return
	}
	if !p.track(c) {
		return
	}
	defer p.untrack(c)
	remote, err := p.dial(e)
	if err != nil {
		outcome := &s.failed
		if errors.Is(err, ErrDenied) {
			outcome = &s.refused
		}
		outcome.Add(1)
		p.log.Warn("connection failed", "endpoint", key, "reason", err.Error())
		return
	}
	defer remote.Close()
	if !p.add(remote) {
		return
	}
	defer p.remove(remote)
	s.opened.Add(1)
	s.active.Add(1)
	defer s.active.Add(-1)
	pipe(c, remote, p.idle, &s.sent, &s.received)
}

// dial resolves the endpoint's name anew and connects to the first address
// that is allowed and answers. It connects to the addresses it looked at, so
// that a second answer of the resolver changes nothing.
func (p *Proxy) dial(e Endpoint) (net.Conn, error) {
	ctx, cancel := context.WithTimeout(p.ctx, p.dialTimeout)
	defer cancel()
	var addrs []netip.Addr
	literal, err := netip.ParseAddr(e.Host)
	named := err != nil
	if addrs = []netip.Addr{literal}; named {
		if addrs, err = p.resolve(ctx, strings.TrimSuffix(e.Host, ".")); err != nil {
			return nil, fmt.Errorf("resolving %s: %w", e.Host, err)
		}
	}
	var allowed []netip.Addr
	for _, a := range addrs {
		if p.reachable(a, e.AllowPrivate) && !(named && metadata(a)) && len(allowed) < maxAddresses {
			allowed = append(allowed, a.Unmap())
		}
	}
	if len(allowed) == 0 {
		return nil, fmt.Errorf("%w: %s resolves to %v, none of which is a public address; list it with allow_private: true if that is meant", ErrDenied, e.Host, addrs)
	}
	var errs []error
	for i, a := range allowed {
		// One address that never answers leaves time for the next.
		deadline, _ := ctx.Deadline()
		d := net.Dialer{Timeout: time.Until(deadline) / time.Duration(len(allowed)-i)}
		c, err := d.DialContext(ctx, "tcp", netip.AddrPortFrom(a, e.Port).String())
		if err == nil {
			return c, nil
		}
		errs = append(errs, err)
	}
	return nil, fmt.Errorf("connecting to %s: %w", e.Host, errors.Join(errs...))
}

// track notes a connection whose handler runs; false when the proxy is closed.
func (p *Proxy) track(c net.Conn) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.closed {
		return false
	}
	p.open[c] = struct{}{}
	p.running.Add(1)
	return true
}

func (p *Proxy) untrack(c net.Conn) {
	p.remove(c)
	p.running.Done()
}

func (p *Proxy) add(c net.Conn) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	if !p.closed {
		p.open[c] = struct{}{}
	}
	return !p.closed
}

func (p *Proxy) remove(c net.Conn) {
	p.mu.Lock()
	defer p.mu.Unlock()
	delete(p.open, c)
}

// Serve accepts connections of l and forwards them to endpoint until Close,
// then returns nil. An endpoint that is not on the list is an error that wraps
// ErrDenied.
func (p *Proxy) Serve(l net.Listener, endpoint string) error {
	if _, _, err := p.find(endpoint); err != nil {
		return err
	}
	stop := context.AfterFunc(p.ctx, func() { _ = l.Close() })
	defer stop()
	handle := p.Handle(endpoint)
	for pause := time.Millisecond; ; {
		c, err := l.Accept()
		switch {
		case p.ctx.Err() != nil:
			if err == nil {
				_ = c.Close()
			}
			return nil
		case errors.Is(err, net.ErrClosed):
			return fmt.Errorf("accepting connections for %s: %w", endpoint, err)
		case err != nil:
			// Out of descriptors, most likely: others will end.
			p.log.Error("accepting connection", "endpoint", endpoint, "reason", err.Error())
			select {
			case <-time.After(pause):
			case <-p.ctx.Done():
			}
			pause = min(2*pause, time.Second)
		default:
			pause = time.Millisecond
			go handle(c)
		}
	}
}

// Close ends all connections and waits for their handlers.
func (p *Proxy) Close() error {
	p.cancel()
	p.mu.Lock()
	p.closed = true
	for c := range p.open {
		_ = c.Close()
	}
	p.mu.Unlock()
	p.running.Wait()
	return nil
}
