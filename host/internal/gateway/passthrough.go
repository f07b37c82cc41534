package gateway

import (
	"context"
	"errors"
	"net"
	"net/http"
	"strings"
	"time"

	"github.com/cape-functions/cape/core/wire"
)

// acceptPause is the wait after a failed accept: descriptors may be back by then.
const acceptPause = 50 * time.Millisecond

// Pass accepts connections from l and carries each to an enclave as it is,
// without parsing a byte: TLS ends there. It returns when l is closed.
func (g *Gateway) Pass(l net.Listener) error {
	for {
		conn, err := l.Accept()
		switch {
		case errors.Is(err, net.ErrClosed):
			return nil
		case err != nil:
			g.cfg.Log.Warn("accepting a connection", "reason", err)
			time.Sleep(acceptPause)
		default:
			go g.carryOne(conn)
		}
	}
}

// carryOne carries one connection; there is nobody to tell why one is refused.
func (g *Gateway) carryOne(conn net.Conn) {
	p, err := g.enter(conn.RemoteAddr().String())
	if err != nil {
		g.cfg.Log.Warn("connection refused", "reason", err)
		_ = conn.Close()
		return
	}
	err = p.hold(&p.client, conn)
	if err == nil {
		err = g.dial(context.Background(), p)
	}
	if err != nil {
		g.cfg.Log.Warn("connection refused", "reason", err)
		g.leave(p)
		return
	}
	g.carry(p, nil)
}

// elsewhere is where the session that r asks for should be held instead, or "".
// Clients of protocol v2 can follow; browsers, which send their origin, cannot,
// and those of v1 stay where they are.
func (g *Gateway) elsewhere(r *http.Request) string {
	if g.cfg.Elsewhere == nil || r.Header.Get("Origin") != "" || !upgrades(r) || !offers(r.Header, wire.SubprotocolV2) {
		return ""
	}
	return g.cfg.Elsewhere(r)
}

// offers says whether any Sec-WebSocket-Protocol line names a protocol.
func offers(h http.Header, protocol string) bool {
	for _, line := range h.Values("Sec-WebSocket-Protocol") {
		for value := range strings.SplitSeq(line, ",") {
			if strings.TrimSpace(value) == protocol {
				return true
			}
		}
	}
	return false
}
