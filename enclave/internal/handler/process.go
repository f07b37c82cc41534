package handler

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"sync"
	"time"

	"github.com/cape-functions/cape/core/wire"
	"github.com/cape-functions/cape/enclave/internal/sandbox"
)

// Process is one connection's function, alive until Close.
type Process struct {
	limits         wire.LimitsConfig
	jail           *sandbox.Jail
	in, out        *os.File
	stdout, stderr *os.File // read ends, or nil
	socket         *os.File
	started        time.Time
	memory         uint64          // of a spare
	ctx            context.Context // ends with the jail
	cancel         context.CancelFunc
	serving        sync.WaitGroup
	printers       []*printer

	turn   chan struct{} // held by the Invoke that runs
	reader *bufio.Reader
	buf    []byte
	loaded bool
	onLoad func(took time.Duration) // told once, when the import worked
	failed error                    // the import's; every Invoke returns it
	broken error                    // the process is gone; every Invoke returns it
}

// serve starts what a process needs besides calls.
func (p *Process) serve(o Options) error {
	for _, out := range []struct {
		r *os.File
		w io.Writer
	}{{p.stdout, o.Stdout}, {p.stderr, o.Stderr}} {
		if out.r == nil {
			continue
		}
		if out.w == nil {
			out.w = io.Discard
		}
		p.printers = append(p.printers, newPrinter(out.r, out.w))
	}
	for _, pr := range p.printers {
		if err := pr.start(); err != nil {
			return fmt.Errorf("reading what the function prints: %w", err)
		}
	}
	var listener net.Listener
	if p.socket != nil {
		l, err := net.FileListener(p.socket)
		if err != nil {
			return fmt.Errorf("listening for cape_encrypt: %w", err)
		}
		listener = l
		p.serving.Go(func() { answerAll(p.ctx, l, o.RPC, o.Reserve) })
	}
	p.serving.Go(func() {
		<-p.jail.Done()
		p.cancel()
		if listener != nil {
			listener.Close()
		}
	})
	return nil
}

// Done is closed when the process is gone.
func (p *Process) Done() <-chan struct{} { return p.jail.Done() }

// Close ends the process and everything it started, waits for both, and hands
// over what was printed last.
func (p *Process) Close() error {
	err := p.jail.Close()
	for _, pr := range p.printers {
		pr.finish()
	}
	p.release()
	p.serving.Wait()
	return err
}

func (p *Process) release() {
	p.cancel()
	for _, f := range []*os.File{p.in, p.out, p.stdout, p.stderr, p.socket} {
		if f != nil {
			f.Close()
		}
	}
}

// end ends the process because of err, which it returns.
func (p *Process) end(err error) error {
	p.broken = fmt.Errorf("%w: an earlier call ended it", ErrEnded)
	if closing := p.jail.Close(); closing != nil {
		err = errors.Join(err, closing)
	}
	return err
}
