// Package hub is the host's end of AF_VSOCK when several enclaves run on one
// machine: each port has one listener, and a connection goes to the services of
// the enclave whose CID the kernel reports. Connections of anybody else are
// closed.
package hub

import (
	"errors"
	"fmt"
	"log/slog"
	"net"
	"sync"
	"time"

	"github.com/cape-functions/cape/vsock"
)

// maxConns bounds the connections of one enclave at once, over all its ports.
const maxConns = 4096

var (
	// ErrTaken: another enclave has this CID.
	ErrTaken = errors.New("another enclave has this CID")
	// ErrClosed: the hub was closed.
	ErrClosed = errors.New("the hub was closed")
)

// Config says where connections come from.
type Config struct {
	// Listen opens a port for connections from every CID; nil means vsock.Listen.
	Listen func(port uint32) (net.Listener, error)
	// Peer tells whose a connection is; nil means vsock.Peer.
	Peer func(net.Conn) (cid uint32, ok bool)
	Log  *slog.Logger
}

// Hub hands connections out. It is safe for concurrent use.
type Hub struct {
	cfg       Config
	accepting sync.WaitGroup

	mu        sync.Mutex
	closed    bool
	listeners map[uint32]net.Listener
	members   map[uint32]*Member
}

// New returns a Hub that listens on no port yet.
func New(cfg Config) *Hub {
	if cfg.Listen == nil {
		cfg.Listen = vsock.Listen
	}
	if cfg.Peer == nil {
		cfg.Peer = vsock.Peer
	}
	return &Hub{cfg: cfg, listeners: map[uint32]net.Listener{}, members: map[uint32]*Member{}}
}

// Member is one enclave's part of a hub.
type Member struct {
	hub      *Hub
	cid      uint32
	services map[uint32]func(net.Conn)

	mu       sync.Mutex
	left     bool
	conns    map[net.Conn]struct{}
	handlers sync.WaitGroup
}

// Join makes connections from cid go to services, by port. It opens the ports
// that are not open yet; they stay open until Close.
func (h *Hub) Join(cid uint32, services map[uint32]func(net.Conn)) (*Member, error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.closed {
		return nil, ErrClosed
	}
	if h.members[cid] != nil {
		return nil, fmt.Errorf("%w: %d", ErrTaken, cid)
	}
	for port := range services {
		if h.listeners[port] != nil {
			continue
		}
		l, err := h.cfg.Listen(port)
		if err != nil {
			return nil, err
		}
		h.listeners[port] = l
		h.accepting.Go(func() { h.accept(port, l) })
	}
	m := &Member{hub: h, cid: cid, services: services, conns: map[net.Conn]struct{}{}}
	h.members[cid] = m
	return m, nil
}

func (h *Hub) accept(port uint32, l net.Listener) {
	for pause := time.Millisecond; ; {
		conn, err := l.Accept()
		switch {
		case errors.Is(err, net.ErrClosed):
			return
		case err != nil: // out of descriptors, most likely: others will end
			if h.isClosed() {
				return
			}
			h.cfg.Log.Error("accepting an enclave's connection", "port", port, "error", err)
			time.Sleep(pause)
			pause = min(2*pause, time.Second)
		default:
			pause = time.Millisecond
			h.hand(port, conn)
		}
	}
}

func (h *Hub) isClosed() bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.closed
}

func (h *Hub) hand(port uint32, conn net.Conn) {
	cid, ok := h.cfg.Peer(conn)
	h.mu.Lock()
	m := h.members[cid]
	h.mu.Unlock()
	if !ok || m == nil || !m.take(port, conn) {
		h.cfg.Log.Debug("a vsock connection was refused", "port", port, "cid", cid)
		_ = conn.Close()
	}
}

// take serves conn in the background, or returns false.
func (m *Member) take(port uint32, conn net.Conn) bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	serve := m.services[port]
	if m.left || serve == nil || len(m.conns) >= maxConns {
		return false
	}
	m.conns[conn] = struct{}{}
	m.handlers.Go(func() {
		defer func() {
			_ = conn.Close()
			m.mu.Lock()
			delete(m.conns, conn)
			m.mu.Unlock()
		}()
		serve(conn)
	})
	return true
}

// Leave ends the member's connections, waits for their handlers, and frees the
// CID. It may be called more than once.
func (m *Member) Leave() {
	m.mu.Lock()
	m.left = true
	for c := range m.conns {
		_ = c.Close()
	}
	m.mu.Unlock()
	m.handlers.Wait()
	m.hub.mu.Lock()
	defer m.hub.mu.Unlock()
	if m.hub.members[m.cid] == m {
		delete(m.hub.members, m.cid)
	}
}

// Close closes all ports and ends all members.
func (h *Hub) Close() error {
	h.mu.Lock()
	h.closed = true
	var errs []error
	for _, l := range h.listeners {
		errs = append(errs, l.Close())
	}
	var members []*Member
	for _, m := range h.members {
		members = append(members, m)
	}
	h.mu.Unlock()
	h.accepting.Wait()
	for _, m := range members {
		m.Leave()
	}
	return errors.Join(errs...)
}
