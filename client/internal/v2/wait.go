package v2

import (
	"context"
	"fmt"
	"io"

	"github.com/cape-functions/cape/client/internal/link"
	"github.com/cape-functions/cape/core/seal"
	"github.com/cape-functions/cape/core/wire"
)

// Outcome is what came of a call.
type Outcome struct {
	// Result is what the enclave said, Receipt its verified receipt.
	Result  *wire.Result
	Receipt *seal.Receipt
	// Deployed is the answer to a function that was deployed.
	Deployed *wire.Deployed
	// Output is nil if it was written to a stream.
	Output []byte
}

// verify holds a result against what was sent, expected and received; the caller holds
// the session's mu. Results come in order, and so do receipts.
func (c *Call) verify(m *wire.Result) error {
	receipt, err := c.session.audit.Check(m, c.input, c.session.function, [32]byte(c.output.Sum(nil)))
	if err != nil {
		return fmt.Errorf("%w: %w", link.ErrChecksum, err)
	}
	c.outcome.Result, c.outcome.Receipt = m, receipt
	return nil
}

// Wait takes the output, into out or, if that is nil, into memory. What was written to out
// is genuine, but whole only if Wait returns no error.
func (c *Call) Wait(ctx context.Context, out io.Writer) (*Outcome, error) {
	s := c.session
	stop := context.AfterFunc(ctx, func() { s.abandon(c.id) })
	defer stop()
	if err := s.Flush(); err != nil && !c.done.Load() {
		return nil, err
	}
	t := taker{call: c, out: out, left: s.options.MaxOutput}
	for {
		pieces, ended := c.pull()
		for i := range pieces {
			if err := t.take(&pieces[i]); err != nil {
				return nil, err
			}
		}
		if ended {
			return t.end(ctx)
		}
		select {
		case <-c.wake:
		case <-ctx.Done():
			s.giveUp()
			return nil, context.Cause(ctx)
		}
	}
}

// pull returns what came since, and whether that is all.
func (c *Call) pull() ([]piece, bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	pieces := c.pieces
	c.pieces, c.logs = nil, 0
	return pieces, c.ended
}

// taker passes output on.
type taker struct {
	call   *Call
	out    io.Writer
	left   int64
	memory []byte
}

func (t *taker) take(p *piece) error {
	c, s := t.call, t.call.session
	defer func() { p.buffer.free() }()
	if p.stream != "" {
		if s.options.Log != nil {
			s.options.Log(p.stream, p.data)
		}
		return nil
	}
	if t.left -= int64(len(p.data)); t.left < 0 {
		s.abandon(c.id)
		return fmt.Errorf("%w: the result has more than %d bytes", link.ErrTooLarge, s.options.MaxOutput)
	}
	switch {
	case t.out != nil:
		if _, err := t.out.Write(p.data); err != nil {
			s.abandon(c.id)
			return fmt.Errorf("writing the result: %w", err)
		}
	case t.memory == nil && p.buffer == nil:
		t.memory = p.data
	default:
		t.memory = append(t.memory, p.data...)
	}
	return c.used(len(p.data))
}

// used lets the enclave send more, now that n bytes of output were passed on.
func (c *Call) used(n int) error {
	s := c.session
	s.mu.Lock()
	grant := c.receive.Use(n)
	s.mu.Unlock()
	if grant == 0 || c.done.Load() {
		return nil
	}
	if err := s.send(&wire.Window{ID: c.id, Bytes: grant}); err != nil && !c.done.Load() {
		return err
	}
	return nil
}

func (t *taker) end(ctx context.Context) (*Outcome, error) {
	if err := t.call.err; err != nil {
		if ctx.Err() != nil && !isRemote(err) {
			t.call.session.giveUp()
			return nil, context.Cause(ctx)
		}
		return nil, err
	}
	o := t.call.outcome
	o.Output = t.memory
	return &o, nil
}
