package nitro

import (
	"context"
	"fmt"
	"strconv"
	"sync"
	"time"

	"github.com/cape-functions/cape/core/wire"
	"github.com/cape-functions/cape/host/internal/launcher"
	"github.com/cape-functions/cape/host/internal/launcher/hub"
	"github.com/cape-functions/cape/vsock"
)

const (
	// answerWait is how long the session port may take to accept.
	answerWait = 5 * time.Second
	// silences in a row end an enclave; blindness in a row is told once.
	silences  = 6
	blindness = 5
)

// enclave is a running Nitro enclave.
type enclave struct {
	launcher *Launcher
	name, id string
	cid      uint32
	member   *hub.Member
	net      vsock.Network

	once    sync.Once
	ready   chan struct{} // closed when it has served
	closing chan struct{} // closed by Close
	done    chan struct{}
	err     error // set before done is closed
}

// run starts the enclave and checks what came up.
func (e *enclave) run(ctx context.Context) error {
	cfg := e.launcher.cfg
	var s started
	err := e.launcher.cli.call(ctx, runWait, &s, "run-enclave", "--eif-path", cfg.Image, "--cpu-count", strconv.Itoa(cfg.CPUs),
		"--memory", strconv.Itoa(cfg.Memory), "--enclave-cid", strconv.FormatUint(uint64(e.cid), 10), "--enclave-name", e.name)
	if err != nil {
		return err
	}
	if s.EnclaveID == "" || s.EnclaveCID != e.cid {
		return &Error{Command: "run-enclave", Text: fmt.Sprintf("it started an enclave with CID %d, asked for was %d", s.EnclaveCID, e.cid), Hint: "is this nitro-cli newer than 1.1?"}
	}
	e.id = s.EnclaveID
	found, err := e.find(ctx)
	switch {
	case err != nil:
		return err
	case found == nil:
		return fmt.Errorf("%w right after its start", ErrEnded)
	case found.Flags != "NONE":
		return fmt.Errorf("%w (flags %q)", ErrDebug, found.Flags)
	}
	if name := launcher.Differs(found.Measurements, cfg.Release.Measurements); len(found.Measurements) > 0 && name != "" {
		return fmt.Errorf("%w: %s of the enclave is %q, of the image %q", ErrImage, name, found.Measurements[name], cfg.Release.Measurements[name])
	}
	return nil
}

// find returns what describe-enclaves says of this enclave, or nil.
func (e *enclave) find(ctx context.Context) (*described, error) {
	all, err := e.launcher.describe(ctx)
	if err != nil {
		return nil, err
	}
	for i, d := range all {
		if d.EnclaveID == e.id && d.State == "RUNNING" {
			return &all[i], nil
		}
	}
	return nil, nil
}

// watch looks at the enclave until it is gone or Close was called.
func (e *enclave) watch(oneshot bool) {
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	go func() {
		select {
		case <-e.closing:
			cancel()
		case <-ctx.Done():
		}
	}()
	err := e.observe(ctx, oneshot)
	if ctx.Err() != nil || err != errGone {
		if stop := e.launcher.terminate(context.Background(), "--enclave-id", e.id); stop != nil {
			e.launcher.cfg.Log.Warn("ending an enclave", "name", e.name, "error", stop)
		}
	}
	e.member.Leave()
	switch {
	case ctx.Err() != nil:
	case err == errGone && !oneshot:
		e.err = fmt.Errorf("%w by itself; the console of a production enclave cannot be read: try the image under QEMU", ErrEnded)
	case err != errGone:
		e.err = err
	}
	close(e.done)
}

// errGone is how observe says that nothing is left to be ended.
var errGone = fmt.Errorf("gone: %w", ErrEnded)

// observe returns when the enclave is gone, silent, or ctx is done.
func (e *enclave) observe(ctx context.Context, oneshot bool) error {
	tick := time.NewTicker(e.launcher.cfg.Poll)
	defer tick.Stop()
	blind, silent := 0, 0
	for {
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-tick.C:
		}
		found, err := e.find(ctx)
		switch {
		case ctx.Err() != nil:
			return ctx.Err()
		case err != nil:
			if blind++; blind == blindness {
				e.launcher.cfg.Log.Error("enclaves cannot be watched", "error", err)
			}
			continue
		case found == nil:
			return errGone
		}
		blind = 0
		if oneshot {
			continue
		}
		if e.answers(ctx) {
			silent = 0
		} else if e.served() && ctx.Err() == nil {
			silent++
		}
		if silent >= silences {
			return fmt.Errorf("%w: %d times in a row nobody took a connection", ErrSilent, silent)
		}
	}
}

// served tells whether it has ever answered: until then it is booting, and Launch
// watches over that.
func (e *enclave) served() bool {
	select {
	case <-e.ready:
		return true
	default:
		return false
	}
}

func (e *enclave) answers(ctx context.Context) bool {
	ctx, cancel := context.WithTimeout(ctx, answerWait)
	defer cancel()
	conn, err := e.Dial(ctx, wire.PortSession)
	if err != nil {
		return false
	}
	_ = conn.Close()
	return true
}

// waitReady returns when the session port accepts connections.
func (e *enclave) waitReady(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, readyWait)
	defer cancel()
	for {
		if e.answers(ctx) {
			close(e.ready)
			return nil
		}
		select {
		case <-e.done:
			return fmt.Errorf("%w while it started: it refused its configuration, credentials or key; see docs/operations.md, \"An enclave ends while it starts\"", ErrEnded)
		case <-ctx.Done():
			return fmt.Errorf("the enclave sent its heartbeat, and then served nothing within %s: %w", readyWait, ctx.Err())
		case <-time.After(50 * time.Millisecond):
		}
	}
}

// Done implements launcher.Enclave.
func (e *enclave) Done() <-chan struct{} { return e.done }

// Err implements launcher.Enclave.
func (e *enclave) Err() error {
	select {
	case <-e.done:
		return e.err
	default:
		return nil
	}
}

// Release implements launcher.Enclave.
func (e *enclave) Release() wire.Release { return e.launcher.cfg.Release }

// Close implements launcher.Enclave.
func (e *enclave) Close() error {
	e.once.Do(func() { close(e.closing) })
	<-e.done
	return e.err
}
