// Package testkit plays AF_VSOCK's ports of a host in memory: any CID can dial.
package testkit

import (
	"fmt"
	"net"
	"sync"
)

// Ports is a host's ports. It is safe for concurrent use.
type Ports struct {
	mu   sync.Mutex
	open map[uint32]*listener
}

// New returns ports of which none is open.
func New() *Ports { return &Ports{open: map[uint32]*listener{}} }

// Listen is for hub.Config.
func (p *Ports) Listen(port uint32) (net.Listener, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.open[port] != nil {
		return nil, fmt.Errorf("port %d is in use", port)
	}
	l := &listener{conns: make(chan net.Conn), done: make(chan struct{})}
	p.open[port] = l
	return l, nil
}

// Peer is for hub.Config.
func (p *Ports) Peer(c net.Conn) (uint32, bool) {
	f, ok := c.(from)
	return f.cid, ok
}

// Dial connects to a port as an enclave with that CID does.
func (p *Ports) Dial(cid, port uint32) (net.Conn, error) {
	p.mu.Lock()
	l := p.open[port]
	p.mu.Unlock()
	if l == nil {
		return nil, fmt.Errorf("nobody listens on port %d", port)
	}
	inside, outside := net.Pipe()
	select {
	case l.conns <- from{outside, cid}:
		return inside, nil
	case <-l.done:
		return nil, net.ErrClosed
	}
}

type from struct {
	net.Conn
	cid uint32
}

type listener struct {
	conns chan net.Conn
	once  sync.Once
	done  chan struct{}
}

func (l *listener) Accept() (net.Conn, error) {
	select {
	case c := <-l.conns:
		return c, nil
	case <-l.done:
		return nil, net.ErrClosed
	}
}

func (l *listener) Close() error {
	l.once.Do(func() { close(l.done) })
	return nil
}

func (l *listener) Addr() net.Addr { return &net.UnixAddr{Name: "vsock", Net: "unix"} }
