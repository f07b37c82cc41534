package worker

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"net/http"
	"sync"
	"sync/atomic"
	"time"

	"github.com/cape-functions/cape/core/wire"
	"github.com/cape-functions/cape/host/internal/api/reply"
	"github.com/cape-functions/cape/host/internal/enclaves"
	"github.com/cape-functions/cape/host/internal/fleet"
	"github.com/cape-functions/cape/host/internal/gateway"
	"github.com/cape-functions/cape/host/internal/serving"
	"github.com/cape-functions/cape/host/internal/store/link"
	"github.com/cape-functions/cape/host/internal/tlsfile"
)

const (
	// lastCalls is how long plain calls may take to end when everything else has.
	lastCalls = 2 * time.Second
	// goodbye bounds what is said to the control plane at the end.
	goodbye = 5 * time.Second
	// look is how often the worker looks whether its state has changed.
	look = 200 * time.Millisecond
	// notice is how long control planes may still send sessions after they were
	// told of the draining: their list of workers is that old at most.
	notice = time.Second
)

func (w *worker) serve(ctx context.Context) (err error) {
	if w.cfg.Cert != "" {
		w.cert, err = tlsfile.Files(w.cfg.Cert, w.cfg.Key, w.log)
	} else {
		w.cert, err = tlsfile.Own(w.cfg.Name)
	}
	if err != nil {
		return err
	}
	l, err := net.Listen("tcp", w.cfg.Listen)
	if err != nil {
		return fmt.Errorf("listening on %s: %w; name another address with --listen", w.cfg.Listen, err)
	}
	defer l.Close() // closed by then, usually
	if w.cfg.Address == "" {
		w.cfg.Address = l.Addr().String() // port 0 has become a number
	}
	failed := make(chan error, 3)
	w.passed = w.newPassed()
	w.listen(tls.NewListener(l, w.cert.Config()), w.routes(), failed)
	if err := errors.Join(w.openMetrics(failed), w.openPassed(failed)); err != nil {
		return err
	}
	beating := w.beat()
	defer beating()
	if err := w.startEnclaves(ctx); ctx.Err() != nil {
		w.log.Warn("stopped before the enclaves were up", "reason", err)
		return nil
	} else if err != nil {
		return err
	}
	w.setState(fleet.Ready)
	w.say(ctx)
	if w.opts.Ready != nil {
		w.opts.Ready(l.Addr())
	}
	select {
	case err := <-failed:
		return fmt.Errorf("serving: %w", err)
	case <-ctx.Done():
	}
	w.drain()
	return nil
}

// startEnclaves waits for the key and starts all enclaves.
func (w *worker) startEnclaves(ctx context.Context) error {
	boot, err := w.firstBoot(ctx)
	if err != nil {
		return err
	}
	config, err := wire.ParseConfig(boot.Config)
	if err != nil {
		return fmt.Errorf("reading what the control plane said: %w", err)
	}
	if err := w.openProxy(partitionOf(config.KMS), regionOf(config.KMS), config.Trust); err != nil {
		return err
	}
	w.mu.Lock()
	w.boot = boot
	w.mu.Unlock()
	links := link.Boot{Message: w.message}
	if w.passed != nil {
		links.Certify = w.certify
	}
	k, err := enclaves.Start(ctx, enclaves.Config{
		Launcher: w.launcher, Spec: w.spec(links), Count: w.cfg.Enclave.Count, Log: w.log,
	})
	if err != nil {
		return err
	}
	w.onClose(k.Close)
	w.mu.Lock()
	defer w.mu.Unlock()
	w.keeper = k
	return nil
}

func (w *worker) setState(state string) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.state = state
}

// self is what the worker says of itself now. Without a running enclave it is
// starting, whatever it was.
func (w *worker) self() fleet.Worker {
	w.mu.Lock()
	k, state := w.keeper, w.state
	w.mu.Unlock()
	out := fleet.Worker{
		Name: w.cfg.Name, Address: w.cfg.Address, Certificate: w.cert.Hash(), URL: w.cfg.URL, State: state,
		Connections: w.active(), Releases: []wire.Release{},
	}
	running := 0
	if k != nil {
		running = k.Running()
		out.Releases = append(out.Releases, k.Releases()...)
	}
	out.Capacity = running * wire.MaxSessions
	if running == 0 && state == fleet.Ready {
		out.State = fleet.Starting
	}
	return out
}

// maxCarried bounds the connections to one enclave, far above what it takes: an enclave must hear of new ones to end
// old ones that are no sessions yet.
const maxCarried = 4 * wire.MaxSessions

// routes are those of sessions, and those that tell how the worker is.
func (w *worker) routes() http.Handler {
	w.gate = gateway.New(gateway.Config{
		Dial: w.dialer(wire.PortSession), Elsewhere: w.passed.elsewhere, Max: w.cfg.Enclave.Count * maxCarried, PerClient: w.cfg.PerClient, Log: w.log,
	})
	w.onClose(func() error {
		w.gate.Close()
		return nil
	})
	mux := http.NewServeMux()
	for _, pattern := range []string{"GET /v1/run/{id}", "GET /v1/run/{user}/{name}", "GET /v1/deploy", "GET /v1/test", "GET /v1/key", "GET /v1/user/{username}/key"} {
		mux.Handle(pattern, w.gate)
	}
	mux.HandleFunc("GET /healthz", func(rw http.ResponseWriter, _ *http.Request) {
		reply.JSON(rw, http.StatusOK, map[string]string{"status": "ok"})
	})
	mux.HandleFunc("GET /readyz", func(rw http.ResponseWriter, _ *http.Request) {
		if s := w.self(); s.State != fleet.Ready {
			reply.Error(rw, wire.CodeUnavailable, "the worker is "+s.State, "see its log")
			return
		}
		reply.JSON(rw, http.StatusOK, map[string]string{"status": "ready"})
	})
	mux.HandleFunc("GET /v1/releases", func(rw http.ResponseWriter, _ *http.Request) { reply.JSON(rw, http.StatusOK, w.self().Releases) })
	mux.HandleFunc("/", func(rw http.ResponseWriter, _ *http.Request) {
		reply.Error(rw, wire.CodeNotFound, "a worker has no such route", "ask the control plane")
	})
	return mux
}

// listen serves h on l until close.
func (w *worker) listen(l net.Listener, h http.Handler, failed chan<- error) {
	server := serving.Start(l, h, 2*time.Minute, w.log, failed)
	w.onClose(func() error { return server.Close(lastCalls) })
}

// beat says again and again what the worker is, and at once when its state changes, until the returned function is
// called; that says goodbye.
func (w *worker) beat() (stop func()) {
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{})
	go func() {
		defer close(done)
		tick := time.NewTicker(look)
		defer tick.Stop()
		var said time.Time
		state := ""
		for {
			if now := w.self().State; now != state || time.Since(said) >= fleet.Beat {
				w.say(ctx)
				state, said = now, time.Now()
			}
			select {
			case <-ctx.Done():
				return
			case <-tick.C:
			}
		}
	}()
	return func() {
		cancel()
		<-done
		ctx, cancel := context.WithTimeout(context.Background(), goodbye)
		defer cancel()
		if err := w.control.Leave(ctx, w.cfg.Name); err != nil {
			w.log.Debug("leaving the control plane", "error", err)
		}
	}
}

// say tells the control plane what the worker is; when it does not answer, the
// next beat tries again.
func (w *worker) say(ctx context.Context) {
	ctx, cancel := context.WithTimeout(ctx, fleet.Lease/2)
	defer cancel()
	if err := w.control.Say(ctx, w.self()); err != nil && !errors.Is(ctx.Err(), context.Canceled) {
		w.log.Error("the control plane does not know of this worker", "error", err)
	}
}

// drain waits for sessions while the control plane sends no more.
func (w *worker) drain() {
	w.setState(fleet.Draining)
	ctx, cancel := context.WithTimeout(context.Background(), w.cfg.Drain)
	defer cancel()
	w.log.Warn("stopping: new sessions go elsewhere", "sessions", w.active())
	w.say(ctx)
	time.Sleep(notice)
	var left atomic.Int64
	var all sync.WaitGroup
	for _, g := range w.gates() {
		all.Go(func() { left.Add(int64(g.Drain(ctx))) })
	}
	if all.Wait(); left.Load() > 0 {
		w.log.Warn("sessions are cut", "sessions", left.Load())
	}
}
