package control

import (
	"context"
	"crypto/tls"
	"fmt"
	"net"
	"net/http"
	"sync/atomic"
	"time"

	"github.com/cape-functions/cape/core/wire"
	"github.com/cape-functions/cape/host/internal/api"
	"github.com/cape-functions/cape/host/internal/api/reply"
	"github.com/cape-functions/cape/host/internal/fleet"
	"github.com/cape-functions/cape/host/internal/gateway"
	"github.com/cape-functions/cape/host/internal/serving"
	"github.com/cape-functions/cape/host/internal/store/link"
)

// lastCalls is how long plain calls may take to end when everything else has.
const lastCalls = 5 * time.Second

// drained tells that /readyz fails.
type drained struct{ atomic.Bool }

func (d *drained) handler(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if d.Load() && r.URL.Path == "/readyz" {
			reply.Error(w, wire.CodeUnavailable, "the server is being stopped", "go to another one")
			return
		}
		next.ServeHTTP(w, r)
	})
}

func (p *plane) serve(ctx context.Context) error {
	clients, err := p.listen("--listen", p.cfg.Listen)
	if err != nil {
		return err
	}
	defer clients.Close() // closed by then, usually
	workers, err := p.listen("--worker-listen", p.cfg.WorkerListen)
	if err != nil {
		return err
	}
	defer workers.Close()
	sweeping, stop := context.WithCancel(ctx)
	swept := make(chan struct{})
	go func() {
		defer close(swept)
		p.sweep(sweeping)
	}()
	p.onClose(func() error {
		stop()
		<-swept
		return nil
	})
	failed := make(chan error, 2)
	p.start(workers, p.workerRoutes(), 0, failed)                      // functions stream through it, each body under a deadline of its own
	front := p.start(clients, p.clientRoutes(), 2*time.Minute, failed) // the gateway takes that off what it carries
	if p.opts.Ready != nil {
		p.opts.Ready(clients.Addr(), workers.Addr())
	}
	select {
	case err := <-failed:
		return fmt.Errorf("serving: %w", err)
	case <-ctx.Done():
	}
	p.drain(front)
	return nil
}

func (p *plane) listen(flag, address string) (net.Listener, error) {
	l, err := net.Listen("tcp", address)
	if err != nil {
		return nil, fmt.Errorf("listening on %s: %w; name another address with %s", address, err, flag)
	}
	if p.cert != nil {
		return tls.NewListener(l, p.cert.Config()), nil
	}
	return l, nil
}

// start serves h on l until close; write bounds an answer, 0 means not.
func (p *plane) start(l net.Listener, h http.Handler, write time.Duration, failed chan<- error) *serving.Server {
	server := serving.Start(l, h, write, p.log, failed)
	p.onClose(func() error { return server.Close(lastCalls) })
	return server
}

func (p *plane) clientRoutes() http.Handler {
	router := &fleet.Router{Roster: p.roster}
	p.gate = gateway.New(gateway.Config{Dial: router.Dial, Max: maxConnections, PerClient: p.cfg.PerClient, Log: p.log})
	p.onClose(func() error {
		p.gate.Close()
		return nil
	})
	router.Pipe = p.gate
	routes := api.New(api.Config{
		Functions: p.store, Verify: p.issuer.Verify, Sessions: router, Log: p.log,
		Releases: func() []wire.Release {
			ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
			defer cancel()
			return p.roster.Releases(ctx)
		},
	})
	return p.draining.handler(routes)
}

func (p *plane) workerRoutes() http.Handler {
	return fleet.Server{
		Token: p.token, Rows: p.store, Boot: p.boot, Trust: p.trust, Born: p.born, Log: p.log,
		Store: link.Store{
			Records: p.store, Log: p.log,
			KeySet: func(string) (string, error) { return "", link.ErrNoIssuer }, // enclaves ask the issuer itself
		}.Handler(),
	}.Handler()
}

// drain lets load balancers see that this process ends, then waits for sessions.
// Workers are served meanwhile: sessions that run may still need the store.
func (p *plane) drain(front *serving.Server) {
	p.draining.Store(true)
	p.log.Warn("stopping: new sessions go elsewhere", "sessions", p.gate.Active())
	time.Sleep(p.cfg.Notice)
	ctx, cancel := context.WithTimeout(context.Background(), p.cfg.Drain)
	defer cancel()
	closing := make(chan struct{})
	go func() {
		defer close(closing)
		_ = front.Shutdown(ctx) // what it leaves is closed at the end
	}()
	if left := p.gate.Drain(ctx); left > 0 {
		p.log.Warn("sessions are cut", "sessions", left)
	}
	cancel()
	<-closing
}
