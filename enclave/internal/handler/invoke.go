package handler

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"time"

	"github.com/cape-functions/cape/core/wire"
)

// dyingTime is how long a worker that closed its descriptors may take to die
// by itself, so that its own reason is reported.
const dyingTime = time.Second

// errOutput marks an error of the writer that takes results.
var errOutput = errors.New("writing the result")

// Invoke reads input to its end, calls the handler with it, and streams the
// result to output. Calls are served one after the other. When it returns
// ErrTimeout, ErrEnded, an error of output, or ctx's, the process is gone (and
// output may have got the beginning of a result); after every other error the
// next Invoke works. A function that could not be imported gives the same
// error each time.
func (p *Process) Invoke(ctx context.Context, input io.Reader, output io.Writer) error {
	select {
	case p.turn <- struct{}{}:
		defer func() { <-p.turn }()
	case <-ctx.Done():
		return ctx.Err()
	}
	if p.broken != nil {
		return p.broken
	}
	stop := context.AfterFunc(ctx, func() { p.jail.Close() })
	err := p.invoke(input, output)
	if !stop() && ctx.Err() != nil {
		return p.end(ctx.Err())
	}
	for _, pr := range p.printers {
		pr.settle()
	}
	return err
}

func (p *Process) invoke(input io.Reader, output io.Writer) error {
	if err := p.load(); err != nil {
		return err
	}
	t := &timer{left: time.Duration(p.limits.CallMS) * time.Millisecond}
	if err := p.sendInput(t, input); err != nil {
		return err
	}
	return p.readResult(t, output)
}

// load waits until the function is imported.
func (p *Process) load() error {
	if p.loaded || p.failed != nil {
		return p.failed
	}
	p.reader = bufio.NewReaderSize(p.out, inputChunk)
	t := &timer{left: wire.HandlerStart - time.Since(p.started)}
	kind, body, err := p.receive(t)
	switch {
	case err != nil:
		return err
	case kind == kindLoaded:
		p.loaded = true
		if p.onLoad != nil {
			p.onLoad(time.Since(p.started))
		}
		return nil
	case kind == kindException:
		p.failed, err = p.exception(body)
		if err != nil {
			return err
		}
		return p.failed
	case kind == kindMemory:
		p.failed = fmt.Errorf("importing it: %w", ErrOutOfMemory)
		return p.failed
	}
	return p.broke(errProtocol)
}

// sendInput hands over the input in frames, the call in the same write as its
// last piece.
func (p *Process) sendInput(t *timer, input io.Reader) error {
	if p.buf == nil {
		p.buf = make([]byte, frameHead+inputChunk+frameHead)
	}
	defer clear(p.buf)
	var total uint64
	for {
		n, err := io.ReadFull(input, p.buf[frameHead:frameHead+inputChunk])
		last := errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF)
		total += uint64(n)
		if err != nil && !last || total > p.limits.Input {
			putHead(p.buf, kindDiscard, 0)
			if e := p.send(t, p.buf[:frameHead]); e != nil {
				return e
			}
			if total > p.limits.Input {
				return fmt.Errorf("%w: the input has more than %d bytes", ErrTooLarge, p.limits.Input)
			}
			return fmt.Errorf("reading the input: %w", err)
		}
		putHead(p.buf, kindInput, n)
		frame := p.buf[:frameHead+n]
		if last {
			frame = p.buf[:frameHead+n+frameHead]
			putHead(frame[frameHead+n:], kindCall, 0)
		}
		if err := p.send(t, frame); err != nil || last {
			return err
		}
	}
}

// readResult passes a result on.
func (p *Process) readResult(t *timer, output io.Writer) error {
	var total uint64
	short := false // a piece that is not full is the last one, so that nobody sends countless ones
	for {
		kind, body, err := p.receive(t)
		if err != nil {
			return err
		}
		switch kind {
		case kindOutput:
			if total += uint64(len(body)); total > p.limits.Output || short || len(body) == 0 {
				return p.broke(errProtocol)
			}
			short = len(body) < maxFrame
			if _, err := output.Write(body); err != nil {
				return p.end(fmt.Errorf("%w: %w", errOutput, err))
			}
		case kindEnd:
			return nil
		case kindException:
			e, err := p.exception(body)
			if err != nil {
				return err
			}
			return e
		case kindMemory:
			return ErrOutOfMemory
		case kindTooLarge:
			return fmt.Errorf("%w has more than %d bytes", ErrResultTooLarge, p.limits.Output)
		default:
			return p.broke(errProtocol)
		}
	}
}

// exception reads what the function raised; err when that ended the process.
func (p *Process) exception(body []byte) (raised, err error) {
	e, err := parseException(body)
	if err != nil {
		return nil, p.broke(err)
	}
	return e, nil
}

// send writes b within t.
func (p *Process) send(t *timer, b []byte) error {
	defer t.run()()
	if err := p.in.SetWriteDeadline(time.Now().Add(t.left)); err != nil {
		return p.broke(err)
	}
	if _, err := p.in.Write(b); err != nil {
		return p.broke(err)
	}
	return nil
}

// receive reads one frame within t. The body is valid until the next call.
func (p *Process) receive(t *timer) (kind byte, body []byte, err error) {
	defer t.run()()
	if err := p.out.SetReadDeadline(time.Now().Add(t.left)); err != nil {
		return 0, nil, p.broke(err)
	}
	kind, size, err := readHead(p.reader, ofCall)
	if err != nil {
		return 0, nil, p.broke(err)
	}
	body = make([]byte, size)
	if _, err := io.ReadFull(p.reader, body); err != nil {
		return 0, nil, p.broke(err)
	}
	return kind, body, nil
}

// broke ends the process after err, met while talking to it, and says why in
// terms of the function.
func (p *Process) broke(err error) error {
	switch {
	case errors.Is(err, os.ErrDeadlineExceeded):
		return p.end(ErrTimeout)
	case errors.Is(err, errProtocol):
		return p.end(fmt.Errorf("%w: %w", ErrEnded, errProtocol))
	}
	select {
	case <-p.jail.Done():
		return p.end(ended(p.jail.Exit()))
	case <-time.After(dyingTime):
		return p.end(fmt.Errorf("%w: %w", ErrEnded, errProtocol))
	}
}

// timer is the time a call may yet take. It runs only while the runtime waits
// for the worker, never while it waits for the caller.
type timer struct{ left time.Duration }

// run starts the timer; what it returns stops it.
func (t *timer) run() (stop func()) {
	start := time.Now()
	return func() { t.left -= time.Since(start) }
}
