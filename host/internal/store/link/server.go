// Package link is the host's end of the links that a runtime dials: boot,
// credentials and store (core/wire/link.go). All speak HTTP/1.1 over
// connections that a launcher accepted.
//
// A runtime sits on the other side, so nothing secret is handed over here but
// the credentials of its own role, and everything it sends is bounded in size
// and time all the same.
package link

import (
	"log/slog"
	"net"
	"net/http"
	"sync"
	"time"

	"github.com/cape-functions/cape/core/wire"
)

// maxConns bounds the connections of one link at once.
const maxConns = 2 * wire.MaxSessions

// Server serves HTTP on connections that somebody else accepted.
type Server struct {
	http  *http.Server
	conns chan net.Conn
	slots chan struct{}
	done  chan struct{}
	once  sync.Once
	ended chan struct{} // closed when the HTTP server returned
}

// NewServer starts a server for one link; Close ends it.
func NewServer(h http.Handler, log *slog.Logger) *Server {
	s := &Server{
		http: &http.Server{
			Handler:           h,
			ReadHeaderTimeout: wire.LinkCall,
			IdleTimeout:       5 * time.Minute,
			MaxHeaderBytes:    wire.MaxHeader,
			ErrorLog:          slog.NewLogLogger(log.Handler(), slog.LevelDebug),
		},
		conns: make(chan net.Conn),
		slots: make(chan struct{}, maxConns),
		done:  make(chan struct{}),
		ended: make(chan struct{}),
	}
	go func() {
		defer close(s.ended)
		_ = s.http.Serve(&accepted{s}) // ends with the listener, by Close
	}()
	return s
}

// Handle serves conn until it is closed. It is a handler for launcher.Spec.
func (s *Server) Handle(conn net.Conn) {
	select {
	case s.slots <- struct{}{}:
		defer func() { <-s.slots }()
	default:
		_ = conn.Close()
		return
	}
	c := &watched{Conn: conn, closed: make(chan struct{})}
	select {
	case s.conns <- c:
		<-c.closed
	case <-s.done:
		_ = conn.Close()
	}
}

// Close ends all connections and waits for the server.
func (s *Server) Close() error {
	var err error
	s.once.Do(func() {
		close(s.done)
		err = s.http.Close()
	})
	<-s.ended
	return err
}

type watched struct {
	net.Conn
	once   sync.Once
	closed chan struct{}
}

func (c *watched) Close() error {
	err := c.Conn.Close()
	c.once.Do(func() { close(c.closed) })
	return err
}

type accepted struct{ s *Server }

func (l *accepted) Accept() (net.Conn, error) {
	select {
	case c := <-l.s.conns:
		return c, nil
	case <-l.s.done:
		return nil, net.ErrClosed
	}
}

func (l *accepted) Close() error   { return nil }
func (l *accepted) Addr() net.Addr { return linkAddr{} }

type linkAddr struct{}

func (linkAddr) Network() string { return "link" }
func (linkAddr) String() string  { return "link" }
