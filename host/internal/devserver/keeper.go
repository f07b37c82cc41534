package devserver

import (
	"context"
	"errors"
	"log/slog"
	"net"
	"sync"
	"time"

	"github.com/cape-functions/cape/core/wire"
	"github.com/cape-functions/cape/host/internal/launcher"
)

// Waits between restarts of an enclave that ended.
const (
	firstWait = 200 * time.Millisecond
	longWait  = 10 * time.Second
	// settled is how long an enclave must have run for the next wait to be short again.
	settled = time.Minute
)

// keeper keeps one enclave running.
type keeper struct {
	launcher launcher.Launcher
	spec     launcher.Spec
	log      *slog.Logger
	// up is told what each enclave runs, before it gets connections.
	up func(wire.Release) error

	mu      sync.Mutex
	current launcher.Enclave
	stop    context.CancelFunc
	done    chan struct{}
}

// start launches the first enclave, and then watches in the background.
func (k *keeper) start(ctx context.Context) error {
	e, err := k.launch(ctx)
	if err != nil {
		return err
	}
	watch, stop := context.WithCancel(context.WithoutCancel(ctx))
	k.stop, k.done = stop, make(chan struct{})
	go k.watch(watch, e)
	return nil
}

func (k *keeper) launch(ctx context.Context) (launcher.Enclave, error) {
	e, err := k.launcher.Launch(ctx, k.spec)
	if err != nil {
		return nil, err
	}
	if err := k.up(e.Release()); err != nil {
		return nil, errors.Join(err, e.Close())
	}
	k.set(e)
	return e, nil
}

func (k *keeper) set(e launcher.Enclave) {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.current = e
}

func (k *keeper) watch(ctx context.Context, e launcher.Enclave) {
	defer close(k.done)
	wait := firstWait
	for {
		started := time.Now()
		select {
		case <-ctx.Done():
			if err := e.Close(); err != nil {
				k.log.Debug("the enclave was stopped", "error", err)
			}
			return
		case <-e.Done():
		}
		k.set(nil)
		k.log.Error("the enclave ended and is started again", "error", e.Err())
		if time.Since(started) > settled {
			wait = firstWait
		}
		if e = k.relaunch(ctx, &wait); e == nil {
			return
		}
	}
}

// relaunch tries until an enclave is up, or returns nil when ctx is done.
func (k *keeper) relaunch(ctx context.Context, wait *time.Duration) launcher.Enclave {
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-time.After(*wait):
		}
		*wait = min(2**wait, longWait)
		e, err := k.launch(ctx)
		if err == nil {
			k.log.Log(ctx, LevelNotice, "an enclave serves again")
			return e
		}
		if ctx.Err() == nil {
			k.log.Error("starting the enclave", "error", err, "next_try", wait.String())
		}
	}
}

// close ends the enclave and the watching.
func (k *keeper) close() error {
	if k.stop != nil {
		k.stop()
		<-k.done
	}
	return nil
}

var errNoEnclave = errors.New("no enclave is running")

// dial connects to the session port of the running enclave.
func (k *keeper) dial(ctx context.Context) (net.Conn, error) {
	k.mu.Lock()
	e := k.current
	k.mu.Unlock()
	if e == nil {
		return nil, errNoEnclave
	}
	return e.Dial(ctx, wire.PortSession)
}

// releases is what runs now; nothing while no enclave does.
func (k *keeper) releases() []wire.Release {
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.current == nil {
		return nil
	}
	return []wire.Release{k.current.Release()}
}
