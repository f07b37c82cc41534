// Package gateway carries client connections to an enclave. It reads the head
// of one HTTP request, passes it on as it came, and then moves bytes: it never
// ends a WebSocket, parses a frame, or keeps anything.
package gateway

import (
	"bufio"
	"context"
	"errors"
	"io"
	"log/slog"
	"net"
	"net/http"
	"sync"
	"time"

	"github.com/cape-functions/cape/core/wire"
	"github.com/cape-functions/cape/host/internal/api/reply"
)

// Deadlines and sizes of one connection.
const (
	dialWait  = 5 * time.Second
	headWait  = 10 * time.Second
	lifetime  = 24 * time.Hour // whatever happens; the enclave closes idle sessions long before
	smallRead = 512            // held by an idle direction
	largeRead = 64 << 10       // borrowed while data flows
)

// Config says where connections go.
type Config struct {
	// Dial connects to the session port of an enclave.
	Dial func(context.Context) (net.Conn, error)
	// Max bounds the connections carried at once; more are refused with 503.
	Max int
	Log *slog.Logger
}

// Gateway is an http.Handler. It is safe for concurrent use.
type Gateway struct {
	cfg     Config
	buffers sync.Pool

	mu     sync.Mutex
	closed bool
	pairs  map[*pair]struct{}
	done   sync.WaitGroup
}

// New returns a Gateway. Close ends what it carries.
func New(cfg Config) *Gateway {
	return &Gateway{cfg: cfg, pairs: map[*pair]struct{}{}, buffers: sync.Pool{New: func() any {
		b := make([]byte, largeRead)
		return &b
	}}}
}

// pair is a client's connection and the enclave's, each with what was read of it ahead.
type pair struct {
	client, enclave net.Conn
	timer           *time.Timer
}

func (p *pair) close() {
	p.timer.Stop()
	p.client.Close()
	p.enclave.Close()
}

// ServeHTTP passes r to the enclave and the rest of the connection after it.
func (g *Gateway) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	if r.ContentLength != 0 || len(r.TransferEncoding) > 0 {
		reply.Error(w, wire.CodeInvalidRequest, "this route takes no request body", "send the request without one")
		return
	}
	p, err := g.connect(r)
	if err != nil {
		if errors.Is(err, errFull) {
			w.Header().Set("Retry-After", "1")
		}
		g.cfg.Log.Warn("no enclave for a connection", "error", err)
		reply.Error(w, wire.CodeUnavailable, "no enclave is ready", "try again in a moment")
		return
	}
	ahead, err := g.take(w, r, p)
	if err != nil {
		g.cfg.Log.Debug("handing a connection over", "error", err)
		g.drop(p)
		return
	}
	go g.carry(p, ahead)
}

var (
	errFull   = errors.New("too many connections")
	errClosed = errors.New("the gateway is closing")
)

// connect dials the enclave and registers the pair.
func (g *Gateway) connect(r *http.Request) (*pair, error) {
	g.mu.Lock()
	switch {
	case g.closed:
		g.mu.Unlock()
		return nil, errClosed
	case len(g.pairs) >= g.cfg.Max:
		g.mu.Unlock()
		return nil, errFull
	}
	p := &pair{}
	g.pairs[p] = struct{}{}
	g.done.Add(1)
	g.mu.Unlock()

	ctx, cancel := context.WithTimeout(r.Context(), dialWait)
	defer cancel()
	conn, err := g.cfg.Dial(ctx)
	if err != nil {
		g.forget(p)
		return nil, err
	}
	p.enclave = conn
	return p, nil
}

func (g *Gateway) forget(p *pair) {
	g.mu.Lock()
	delete(g.pairs, p)
	g.mu.Unlock()
	g.done.Done()
}

func (g *Gateway) drop(p *pair) {
	p.enclave.Close()
	if p.client != nil {
		p.client.Close()
	}
	g.forget(p)
}

// take writes the request's head to the enclave and takes the connection from
// the HTTP server. It returns what the server had read beyond the head.
func (g *Gateway) take(w http.ResponseWriter, r *http.Request, p *pair) ([]byte, error) {
	if err := p.enclave.SetWriteDeadline(time.Now().Add(headWait)); err != nil {
		return nil, err
	}
	if err := writeHead(p.enclave, r); err != nil {
		reply.Error(w, wire.CodeUnavailable, "the enclave does not answer", "try again in a moment")
		return nil, err
	}
	client, buffered, err := http.NewResponseController(w).Hijack()
	if err != nil {
		return nil, err
	}
	g.mu.Lock()
	p.client = client
	closed := g.closed
	p.timer = time.AfterFunc(lifetime, p.close)
	g.mu.Unlock()
	if closed {
		return nil, errClosed
	}
	ahead := make([]byte, buffered.Reader.Buffered())
	if _, err := io.ReadFull(buffered.Reader, ahead); err != nil {
		return nil, err
	}
	return ahead, errors.Join(client.SetDeadline(time.Time{}), p.enclave.SetDeadline(time.Time{}))
}

// writeHead sends the request as it came: every header line, the order of
// names aside. Only an upgrade keeps the connection open after its answer.
func writeHead(w io.Writer, r *http.Request) error {
	b := bufio.NewWriterSize(w, 4096)
	h := r.Header
	if h.Get("Upgrade") == "" {
		h = h.Clone()
		h.Set("Connection", "close")
	}
	b.WriteString(r.Method + " " + r.URL.RequestURI() + " HTTP/1.1\r\nHost: " + r.Host + "\r\n")
	if err := h.Write(b); err != nil {
		return err
	}
	b.WriteString("\r\n")
	return b.Flush()
}

// carry moves bytes both ways until both directions have ended.
func (g *Gateway) carry(p *pair, ahead []byte) {
	defer g.forget(p)
	defer p.close()
	back := make(chan struct{})
	go func() {
		defer close(back)
		g.copy(p.client, p.enclave)
		// What the enclave said is all there is: the client cannot get an answer any more.
		p.close()
	}()
	if _, err := p.enclave.Write(ahead); err == nil {
		g.copy(p.enclave, p.client)
	}
	<-back
}

// copy moves bytes from src to dst and then ends that direction. While nothing
// comes it holds a small buffer; a large one is borrowed while data flows.
func (g *Gateway) copy(dst, src net.Conn) {
	small := make([]byte, smallRead)
	for {
		n, err := src.Read(small)
		if !write(dst, small[:n]) {
			src.Close()
			return
		}
		if err == nil && n == len(small) {
			err = g.flow(dst, src)
		}
		if err != nil {
			endWriting(dst)
			return
		}
	}
}

// flow copies with a large buffer until the source has no more at hand.
func (g *Gateway) flow(dst, src net.Conn) error {
	buf := g.buffers.Get().(*[]byte)
	defer g.buffers.Put(buf)
	for {
		n, err := src.Read(*buf)
		if !write(dst, (*buf)[:n]) {
			return io.ErrClosedPipe
		}
		if err != nil || n < smallRead {
			return err
		}
	}
}

func write(dst net.Conn, b []byte) bool {
	if len(b) == 0 {
		return true
	}
	_, err := dst.Write(b)
	return err == nil
}

// endWriting tells the other side that no more comes, if the transport can.
func endWriting(c net.Conn) {
	if half, ok := c.(interface{ CloseWrite() error }); ok && half.CloseWrite() == nil {
		return
	}
	c.Close()
}

// Close ends every connection and waits for their goroutines.
func (g *Gateway) Close() {
	g.mu.Lock()
	g.closed = true
	for p := range g.pairs {
		if p.client != nil {
			p.close()
		}
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
