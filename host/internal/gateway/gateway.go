// Package gateway carries client connections to an enclave. It passes the head
// of one HTTP request on as it came, and looks at the head of the answer: when
// the enclave switches protocols it moves bytes from then on, both ways,
// without parsing a frame; any other answer goes back as an ordinary one. It
// never ends a WebSocket and keeps nothing. Connections of a second listener,
// whose TLS ends in the enclave, it carries without looking at them at all.
package gateway

import (
	"context"
	"errors"
	"log/slog"
	"net"
	"net/http"
	"net/netip"
	"sync"
	"time"

	"github.com/cape-functions/cape/core/wire"
	"github.com/cape-functions/cape/host/internal/api/reply"
)

// Deadlines of one connection.
const (
	dialWait   = 5 * time.Second
	headWait   = 10 * time.Second // for the request's head to be taken
	answerWait = 90 * time.Second // for the answer's head: a cold key comes from KMS
	lingerWait = 5 * time.Second  // for the client to read what an ended enclave said last
	lifetime   = 24 * time.Hour   // whatever happens; the enclave closes idle sessions long before
)

// Config says where connections go.
type Config struct {
	// Dial connects to the session port of an enclave.
	Dial func(context.Context) (net.Conn, error)
	// Elsewhere, when it is set, returns the URL at which a session of protocol v2
	// should be held instead (a listener whose TLS ends in the enclave), or "".
	Elsewhere func(*http.Request) string
	// Max bounds the connections carried at once; more are refused with 503.
	Max int
	// PerClient bounds the connections of one address (of IPv6: of one /64) in their first 30 seconds, in which they
	// need not be sessions yet; more are refused with 429. 0: no bound. Loopback addresses have none.
	PerClient int
	Log       *slog.Logger
}

// Gateway is an http.Handler. It is safe for concurrent use.
type Gateway struct {
	cfg     Config
	buffers sync.Pool // of *[burst]byte

	mu       sync.Mutex
	closed   bool
	draining bool
	pairs    map[*pair]struct{}
	young    map[netip.Prefix]int
	age      time.Duration // until which connections are young
	done     sync.WaitGroup
}

// New returns a Gateway. Close ends what it carries.
func New(cfg Config) *Gateway {
	return &Gateway{cfg: cfg, pairs: map[*pair]struct{}{}, young: map[netip.Prefix]int{}, age: young, buffers: sync.Pool{New: func() any { return new([burst]byte) }}}
}

// pair is a client's connection and the enclave's.
type pair struct {
	mu              sync.Mutex
	closed          bool
	client, enclave net.Conn // the client's is nil until it was taken from the HTTP server

	from  netip.Prefix // as whose young connection it counts; guarded by the gateway
	grows *time.Timer
}

// hold makes conn end with the pair, at once if the pair has ended.
func (p *pair) hold(which *net.Conn, conn net.Conn) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.closed {
		return errors.Join(errClosed, conn.Close())
	}
	*which = conn
	return nil
}

// close ends both connections. It may be called more than once.
func (p *pair) close() {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.closed {
		return
	}
	p.closed = true
	for _, c := range []net.Conn{p.client, p.enclave} {
		if c != nil {
			_ = c.Close() // nobody is left to tell
		}
	}
}

var (
	errFull   = errors.New("too many connections")
	errClient = errors.New("too many new connections of one address")
	errClosed = errors.New("the connection was closed")
	// errDraining: new connections go elsewhere.
	errDraining = errors.New("the server is being stopped")
)

// ServeHTTP passes r to the enclave, and the rest of the connection after it
// when the enclave takes the upgrade.
func (g *Gateway) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	if r.ContentLength != 0 || len(r.TransferEncoding) > 0 {
		reply.Error(w, wire.CodeInvalidRequest, "this route takes no request body", "send the request without one")
		return
	}
	if url := g.elsewhere(r); url != "" {
		w.Header().Set("Location", url)
		reply.JSON(w, http.StatusTemporaryRedirect, map[string]string{"location": url})
		return
	}
	p, err := g.enter(r.RemoteAddr)
	if err != nil {
		g.unavailable(w, err)
		return
	}
	carrying := false
	defer func() {
		if !carrying {
			g.leave(p)
		}
	}()
	if err := g.dial(r.Context(), p); err != nil {
		g.unavailable(w, err)
		return
	}
	carrying = g.exchange(w, r, p)
}

func (g *Gateway) unavailable(w http.ResponseWriter, err error) {
	code, text := wire.CodeUnavailable, "no enclave is ready"
	switch {
	case errors.Is(err, errFull):
		text = "the server carries as many connections as it can"
	case errors.Is(err, errClient):
		code, text = wire.CodeQuota, "your address has begun as many connections as it may at once"
	}
	g.cfg.Log.Warn("connection refused", "reason", err)
	w.Header().Set("Retry-After", "1")
	reply.Error(w, code, text, "try again in a moment")
}

// enter counts a connection in; leave counts it out.
func (g *Gateway) enter(remote string) (*pair, error) {
	g.mu.Lock()
	defer g.mu.Unlock()
	switch {
	case g.closed:
		return nil, errClosed
	case g.draining:
		return nil, errDraining
	case len(g.pairs) >= g.cfg.Max:
		return nil, errFull
	}
	p := &pair{}
	if !g.count(p, clientOf(remote)) {
		return nil, errClient
	}
	g.pairs[p] = struct{}{}
	g.done.Add(1)
	return p, nil
}

func (g *Gateway) leave(p *pair) {
	p.close()
	g.mu.Lock()
	delete(g.pairs, p)
	g.grown(p)
	g.mu.Unlock()
	g.done.Done()
}

func (g *Gateway) dial(ctx context.Context, p *pair) error {
	ctx, cancel := context.WithTimeout(ctx, dialWait)
	defer cancel()
	conn, err := g.cfg.Dial(ctx)
	if err != nil {
		return err
	}
	return p.hold(&p.enclave, conn)
}

// Close ends every connection and waits for their goroutines.
func (g *Gateway) Close() {
	g.mu.Lock()
	g.closed = true
	for p := range g.pairs {
		p.close()
	}
	g.mu.Unlock()
	g.done.Wait()
}

// Active returns the number of connections carried now.
func (g *Gateway) Active() int {
	g.mu.Lock()
	defer g.mu.Unlock()
	return len(g.pairs)
}
