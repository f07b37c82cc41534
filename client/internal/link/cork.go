package link

import (
	"context"
	"crypto/tls"
	"net"
	"net/http/httptrace"
	"sync"
	"time"
)

// maxCorked bounds what a corked connection holds back, in bytes: a large frame, which the
// WebSocket library would write in pieces of 4 KiB.
const maxCorked = 320 << 10

// corkable is a connection whose small writes can be held back and sent as one: a
// session's first messages then travel in one packet.
type corkable struct {
	net.Conn
	mu   sync.Mutex
	held []byte
	on   bool
}

func (c *corkable) Write(p []byte) (int, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if !c.on {
		return c.Conn.Write(p)
	}
	if len(c.held)+len(p) > maxCorked {
		if err := c.flush(); err != nil {
			return 0, err
		}
		return c.Conn.Write(p)
	}
	c.held = append(c.held, p...)
	return len(p), nil
}

func (c *corkable) flush() error {
	if len(c.held) == 0 {
		return nil
	}
	_, err := c.Conn.Write(c.held)
	c.held = c.held[:0]
	return err
}

// Cork holds writes back until Uncork. A nil receiver does nothing.
func (c *corkable) Cork() {
	if c == nil {
		return
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.on = true
}

// Uncork sends what was held back.
func (c *corkable) Uncork() error {
	if c == nil {
		return nil
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.on = false
	return c.flush()
}

// dialCorkable is the DialContext of a transport.
func dialCorkable(ctx context.Context, network, address string) (net.Conn, error) {
	conn, err := (&net.Dialer{Timeout: 15 * time.Second, KeepAlive: 30 * time.Second}).DialContext(ctx, network, address)
	if err != nil {
		return nil, err
	}
	return &corkable{Conn: conn}, nil
}

// findCork returns a context that notes the connection of the request made with it. What
// it points to is nil if the transport's connections cannot be corked.
func findCork(ctx context.Context) (context.Context, **corkable) {
	var found *corkable
	return httptrace.WithClientTrace(ctx, &httptrace.ClientTrace{GotConn: func(info httptrace.GotConnInfo) {
		conn := info.Conn
		if t, ok := conn.(*tls.Conn); ok {
			conn = t.NetConn()
		}
		found, _ = conn.(*corkable)
	}}), &found
}
