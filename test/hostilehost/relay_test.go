package hostilehost

import (
	"context"
	"net/http"
	"net/http/httptest"
	"sync"
	"testing"

	"github.com/coder/websocket"

	"github.com/cape-functions/cape/core/wire"
)

// Directions of a relay.
const (
	up   = "up"   // from the client
	down = "down" // from the enclave
)

// relay is the operator's network: a server in front of the platform that sees
// every frame, and may deliver others in its place.
type relay struct {
	*httptest.Server
	target string
	// path is where a request is sent; nil: where it wanted to go.
	path func(string) string
	// select is the subprotocol that the client is told; nil: the enclave's.
	subprotocol func(string) string
	// frame is the nth frame of a direction, from 0, and returns what is delivered.
	frame func(direction string, n int, frame []byte) [][]byte

	mu   sync.Mutex
	seen []byte // everything that clients sent
}

// newRelay starts a relay that is honest until its fields say otherwise.
func newRelay(t *testing.T, target string) *relay {
	r := &relay{target: target}
	r.Server = httptest.NewServer(r)
	t.Cleanup(r.Close)
	return r
}

// ServeHTTP carries one WebSocket; a plain request is answered with 404.
func (r *relay) ServeHTTP(w http.ResponseWriter, q *http.Request) {
	offered := q.Header.Get("Sec-WebSocket-Protocol")
	if q.Header.Get("Upgrade") == "" {
		http.NotFound(w, q)
		return
	}
	r.note([]byte(offered))
	path := q.URL.Path
	if r.path != nil {
		path = r.path(path)
	}
	far, _, err := websocket.Dial(q.Context(), r.target+path, &websocket.DialOptions{Subprotocols: []string{offered}, CompressionMode: websocket.CompressionDisabled})
	if err != nil {
		http.Error(w, "no enclave", http.StatusBadGateway)
		return
	}
	defer far.CloseNow()
	told := far.Subprotocol()
	if r.subprotocol != nil {
		told = r.subprotocol(told)
	}
	near, err := websocket.Accept(w, q, &websocket.AcceptOptions{Subprotocols: []string{told}, CompressionMode: websocket.CompressionDisabled, InsecureSkipVerify: true})
	if err != nil {
		return
	}
	defer near.CloseNow()
	far.SetReadLimit(-1)
	near.SetReadLimit(-1)
	ctx, cancel := context.WithCancel(q.Context())
	defer cancel()
	done := make(chan struct{})
	go func() {
		defer close(done)
		defer cancel()
		r.carry(ctx, up, near, far)
	}()
	r.carry(ctx, down, far, near)
	cancel()
	<-done
}

// carry moves frames one way until it ends, and closes the other side as the
// first one closed.
func (r *relay) carry(ctx context.Context, direction string, from, to *websocket.Conn) {
	for n := 0; ; n++ {
		typ, frame, err := from.Read(ctx)
		if err != nil {
			if status := websocket.CloseStatus(err); status >= 0 && status != websocket.StatusNoStatusRcvd {
				_ = to.Close(status, "") // it may be gone
			}
			return
		}
		if direction == up {
			r.note(frame)
		}
		out := [][]byte{frame}
		if r.frame != nil {
			out = r.frame(direction, n, frame)
		}
		for _, f := range out {
			if to.Write(ctx, typ, f) != nil {
				return
			}
		}
	}
}

func (r *relay) note(b []byte) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.seen = append(r.seen, b...)
}

// sent is everything that clients sent.
func (r *relay) sent() []byte {
	r.mu.Lock()
	defer r.mu.Unlock()
	return append([]byte(nil), r.seen...)
}

// hello rewrites the client's hello.
func hello(change func(*wire.Hello)) func(string, int, []byte) [][]byte {
	return func(direction string, n int, frame []byte) [][]byte {
		if direction != up || n != 0 {
			return [][]byte{frame}
		}
		h, err := wire.ParseHello(frame)
		if err != nil {
			return [][]byte{frame}
		}
		change(h)
		if out, err := h.Encode(); err == nil {
			frame = out
		}
		return [][]byte{frame}
	}
}
