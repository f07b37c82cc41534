// Package enclaves keeps a number of enclaves running: it starts them, watches
// them, starts those that ended again, and connects to one that runs.
package enclaves

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"reflect"
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

// levelNotice is above calls and below warnings: devserver.LevelNotice.
const levelNotice = slog.LevelInfo + 2

// ErrNone: no enclave is running.
var ErrNone = errors.New("no enclave is running")

// Config says what to keep running.
type Config struct {
	Launcher launcher.Launcher
	Spec     launcher.Spec
	// Count is how many enclaves; 0 means 1.
	Count int
	// Up, when it is set, is told what an enclave runs before it gets connections.
	Up  func(wire.Release) error
	Log *slog.Logger
}

// Keeper keeps enclaves running until Close. It is safe for concurrent use.
type Keeper struct {
	cfg  Config
	stop context.CancelFunc
	done sync.WaitGroup

	mu      sync.Mutex
	running []launcher.Enclave // by slot, nil where none runs
	next    int
}

// Start launches all enclaves, one after the other, and then watches them in the
// background. It fails when one of them does not start.
func Start(ctx context.Context, cfg Config) (*Keeper, error) {
	if cfg.Count == 0 {
		cfg.Count = 1
	}
	k := &Keeper{cfg: cfg, running: make([]launcher.Enclave, cfg.Count)}
	watch, stop := context.WithCancel(context.WithoutCancel(ctx))
	k.stop = stop
	for slot := range cfg.Count {
		e, err := k.launch(ctx, slot)
		if err != nil {
			return nil, errors.Join(fmt.Errorf("starting enclave %d of %d: %w", slot+1, cfg.Count, err), k.Close())
		}
		k.done.Go(func() { k.watch(watch, slot, e) })
	}
	return k, nil
}

func (k *Keeper) launch(ctx context.Context, slot int) (launcher.Enclave, error) {
	e, err := k.cfg.Launcher.Launch(ctx, k.cfg.Spec)
	if err != nil {
		return nil, err
	}
	if k.cfg.Up != nil {
		if err := k.cfg.Up(e.Release()); err != nil {
			return nil, errors.Join(err, e.Close())
		}
	}
	k.set(slot, e)
	return e, nil
}

func (k *Keeper) set(slot int, e launcher.Enclave) {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.running[slot] = e
}

func (k *Keeper) watch(ctx context.Context, slot int, e launcher.Enclave) {
	wait := firstWait
	for {
		started := time.Now()
		select {
		case <-ctx.Done():
			k.set(slot, nil)
			if err := e.Close(); err != nil {
				k.cfg.Log.Debug("an enclave was stopped", "error", err)
			}
			return
		case <-e.Done():
		}
		k.set(slot, nil)
		k.cfg.Log.Error("the enclave ended and is started again", "enclave", slot, "error", e.Err())
		if time.Since(started) > settled {
			wait = firstWait
		}
		if e = k.relaunch(ctx, slot, &wait); e == nil {
			return
		}
	}
}

// relaunch tries until an enclave is up, or returns nil when ctx is done.
func (k *Keeper) relaunch(ctx context.Context, slot int, wait *time.Duration) launcher.Enclave {
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-time.After(*wait):
		}
		*wait = min(2**wait, longWait)
		e, err := k.launch(ctx, slot)
		if err == nil {
			k.cfg.Log.Log(ctx, levelNotice, "an enclave serves again", "enclave", slot)
			return e
		}
		if ctx.Err() == nil {
			k.cfg.Log.Error("starting the enclave", "enclave", slot, "error", err, "next_try", wait.String())
		}
	}
}

// Close ends all enclaves and the watching.
func (k *Keeper) Close() error {
	k.stop()
	k.done.Wait()
	return nil
}

// Dial connects to a port of a running enclave: of the next one in turn, or of
// another where that does not answer. It returns ErrNone when none runs.
func (k *Keeper) Dial(ctx context.Context, port uint32) (net.Conn, error) {
	err := ErrNone
	for _, e := range k.turn() {
		var conn net.Conn
		if conn, err = e.Dial(ctx, port); err == nil {
			return conn, nil
		}
	}
	return nil, err
}

// turn returns the running enclaves, another one first each time.
func (k *Keeper) turn() []launcher.Enclave {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.next++
	var out []launcher.Enclave
	for i := range k.running {
		if e := k.running[(k.next+i)%len(k.running)]; e != nil {
			out = append(out, e)
		}
	}
	return out
}

// Running is how many enclaves run.
func (k *Keeper) Running() int { return len(k.turn()) }

// Releases is what runs now, each kind once.
func (k *Keeper) Releases() []wire.Release {
	var out []wire.Release
next:
	for _, e := range k.turn() {
		r := e.Release()
		for _, have := range out {
			if reflect.DeepEqual(have, r) {
				continue next
			}
		}
		out = append(out, r)
	}
	return out
}
