package main

import (
	"errors"
	"io"
	"net"
	"net/url"
	"sync"
	"time"
)

// relay stands between a client and the platform, and adds up for how long the client waits:
// from the last byte that it sent to the next that it gets.
type relay struct {
	url  string
	to   string
	l    net.Listener
	work sync.WaitGroup

	mu    sync.Mutex
	asked time.Time // the client's last byte; zero: it was answered
	sum   time.Duration
	conns []net.Conn
}

func newRelay(to string) (*relay, error) {
	u, err := url.Parse(to)
	if err != nil {
		return nil, err
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return nil, err
	}
	r := &relay{to: u.Host, l: l}
	u.Host = l.Addr().String()
	r.url = u.String()
	r.work.Go(r.serve)
	return r, nil
}

func (r *relay) serve() {
	for {
		c, err := r.l.Accept()
		if err != nil {
			return
		}
		s, err := net.Dial("tcp", r.to)
		if err != nil {
			c.Close()
			continue
		}
		r.mu.Lock()
		r.conns = append(r.conns, c, s)
		r.mu.Unlock()
		r.work.Go(func() { r.carry(s, c, r.up) })
		r.work.Go(func() { r.carry(c, s, r.down) })
	}
}

// carry copies from one end to the other; passed is told of every piece, and of the end.
func (r *relay) carry(to, from net.Conn, passed func()) {
	defer to.(*net.TCPConn).CloseWrite()
	buf := make([]byte, 64<<10)
	for {
		n, err := from.Read(buf)
		passed()
		if n > 0 {
			if _, err := to.Write(buf[:n]); err != nil {
				return
			}
		}
		if err != nil {
			return
		}
	}
}

func (r *relay) up() {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.asked = time.Now()
}

func (r *relay) down() {
	r.mu.Lock()
	defer r.mu.Unlock()
	if !r.asked.IsZero() {
		r.sum += time.Since(r.asked)
		r.asked = time.Time{}
	}
}

func (r *relay) reset() {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.asked, r.sum = time.Time{}, 0
}

// waited is how long the client waited since reset.
func (r *relay) waited() time.Duration {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.sum
}

func (r *relay) close() error {
	err := r.l.Close()
	r.mu.Lock()
	for _, c := range r.conns {
		err = errors.Join(err, c.Close())
	}
	r.mu.Unlock()
	r.work.Wait()
	if errors.Is(err, net.ErrClosed) || errors.Is(err, io.EOF) {
		err = nil
	}
	return err
}
