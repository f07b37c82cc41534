package session

import (
	"container/list"
	"context"
	"crypto/tls"
	"io"
	"net"
	"net/http"
	"runtime"
	"sync"
	"time"

	"github.com/cape-functions/cape/core/wire"
	"github.com/cape-functions/cape/enclave/internal/vault"
)

// tenant is whom sessions count for: a user as the issuer names it. Accounts cost nothing: one that shows no token counts for the
// user as whom it deployed the function that it runs.
type tenant struct {
	memory
	holder   vault.Holder
	sessions int
	requests vault.Turn // of cape_encrypt: half of the processors work on one tenant's at most
	checks   vault.Turn // of judging and unpacking functions
}

// seats are the places of admitted sessions. Nobody gets more of them than are left for others: one alone has at most
// half, the next half of the rest.
type seats struct {
	budget  *budget
	mu      sync.Mutex
	free    int
	tenants map[vault.Holder]*tenant
}

func (s *seats) take(h vault.Holder) (*tenant, *fault) {
	s.mu.Lock()
	defer s.mu.Unlock()
	t := s.tenants[h]
	if t == nil {
		t = &tenant{memory: memory{budget: s.budget}, holder: h,
			requests: make(vault.Turn, max(1, runtime.NumCPU()/2)), checks: make(vault.Turn, 1)}
	}
	switch {
	case s.free == 0:
		return nil, crowded()
	case t.sessions >= s.free:
		return nil, fatal(wire.CodeQuota, "you hold as many sessions as there are left for everybody else", "try again when one of yours has ended")
	}
	s.tenants[h] = t
	t.sessions++
	s.free--
	return t, nil
}

// check decides whether a zip may be deployed or tested, and unpacks all of it for that.
func (s *Server) check(ctx context.Context, t *tenant, zip io.ReaderAt, size int64) error {
	leave, err := vault.Take(ctx, t.checks)
	if err != nil {
		return err
	}
	defer leave()
	return s.cfg.Functions.Check(ctx, zip, size)
}

func (s *seats) give(t *tenant) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.free++
	if t.sessions--; t.sessions == 0 {
		delete(s.tenants, t.holder)
	}
}

func crowded() *fault {
	return fatal(wire.CodeUnavailable, "the enclave serves as many connections as it can", "try again in a moment")
}

// lobby counts connections until they are admitted. When there are too many, who has waited longest makes room: a
// crowd that only waits keeps nobody out. Who came just now is left to finish, and the newcomer refused.
type lobby struct {
	patience time.Duration
	mu       sync.Mutex
	guests   list.List // of *guest, in the order in which they came
}

// guest is a connection. It is in the lobby until leave or Close.
type guest struct {
	net.Conn
	lobby *lobby
	came  time.Time
	place *list.Element // nil: not in the lobby
	expel func()        // ends the connection
}

func (l *lobby) enter(c net.Conn) *guest {
	g := &guest{Conn: c, lobby: l, came: time.Now()}
	g.expel = func() { g.Close() }
	l.mu.Lock()
	defer l.mu.Unlock()
	g.place = l.guests.PushBack(g)
	return g
}

// fits tells whether there are at most n, and makes room for the last if it can.
func (l *lobby) fits(n int) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.guests.Len() <= n {
		return true
	}
	g, _ := l.guests.Front().Value.(*guest)
	if time.Since(g.came) < l.patience {
		return false
	}
	l.guests.Remove(g.place)
	g.place = nil
	go g.expel() // it may take its time to say goodbye
	return true
}

func (g *guest) leave() {
	g.lobby.mu.Lock()
	defer g.lobby.mu.Unlock()
	if g.place != nil {
		g.lobby.guests.Remove(g.place)
		g.place = nil
	}
}

// onExpel says how the connection is ended if it must make room.
func (g *guest) onExpel(expel func()) {
	g.lobby.mu.Lock()
	defer g.lobby.mu.Unlock()
	g.expel = expel
}

// Close implements net.Conn.
func (g *guest) Close() error {
	g.leave()
	return g.Conn.Close()
}

// doorman accepts connections into a lobby, and closes at once what comes when there are most.
type doorman struct {
	net.Listener
	lobby *lobby
	most  int
}

// Accept implements net.Listener.
func (d *doorman) Accept() (net.Conn, error) {
	for {
		c, err := d.Listener.Accept()
		if err != nil {
			return nil, err
		}
		g := d.lobby.enter(c)
		if d.lobby.fits(d.most) {
			return g, nil
		}
		g.Close()
	}
}

type guestKey struct{}

// withGuest is a http.Server's ConnContext.
func withGuest(ctx context.Context, c net.Conn) context.Context {
	if t, ok := c.(*tls.Conn); ok {
		c = t.NetConn()
	}
	return context.WithValue(ctx, guestKey{}, c)
}

// guestOf is the connection that a request came by; all listeners have a doorman.
func guestOf(r *http.Request) *guest {
	g, _ := r.Context().Value(guestKey{}).(*guest)
	return g
}
