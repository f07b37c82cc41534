package vsock

import (
	"context"
	"fmt"
	"net"

	"github.com/mdlayher/vsock"
)

// AF returns a Network over AF_VSOCK whose other side is peer. Listeners
// accept connections from that CID alone.
func AF(peer uint32) Network { return afNetwork{peer} }

type afNetwork struct{ peer uint32 }

func (n afNetwork) Dial(ctx context.Context, port uint32) (net.Conn, error) {
	type result struct {
		conn net.Conn
		err  error
	}
	done := make(chan result, 1)
	go func() {
		conn, err := vsock.Dial(n.peer, port, nil)
		if err != nil {
			done <- result{nil, err}
			return
		}
		done <- result{conn, nil}
	}()
	select {
	case r := <-done:
		if r.err != nil {
			return nil, fmt.Errorf("dialling vsock %d:%d: %w", n.peer, port, r.err)
		}
		return r.conn, nil
	case <-ctx.Done():
		go func() {
			if r := <-done; r.conn != nil {
				r.conn.Close()
			}
		}()
		return nil, ctx.Err()
	}
}

func (n afNetwork) Listen(port uint32) (net.Listener, error) {
	l, err := vsock.Listen(port, nil)
	if err != nil {
		return nil, fmt.Errorf("listening on vsock port %d: %w", port, err)
	}
	return &peerListener{Listener: l, peer: n.peer}, nil
}

// peerListener drops connections of any CID but one.
type peerListener struct {
	net.Listener
	peer uint32
}

func (l *peerListener) Accept() (net.Conn, error) {
	for {
		conn, err := l.Listener.Accept()
		if err != nil {
			return nil, err
		}
		if a, ok := conn.RemoteAddr().(*vsock.Addr); ok && a.ContextID == l.peer {
			return conn, nil
		}
		conn.Close()
	}
}
