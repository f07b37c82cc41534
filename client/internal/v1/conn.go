package v1

import (
	"context"
	"errors"
	"fmt"
	"io"
	"time"

	"github.com/coder/websocket"

	"github.com/cape-functions/cape/client/internal/link"
	"github.com/cape-functions/cape/core/wire"
)

const (
	// piece is how much is written at a time; progress and patience go by it.
	piece = 256 << 10
	// movePatience bounds the time in which one piece must move.
	movePatience = 60 * time.Second
	// sendPatience bounds a whole message; pieces are watched on their own.
	sendPatience = 24 * time.Hour
	// resultPatience bounds the wait for a result: loading, start and call.
	resultPatience = wire.HandlerStart + wire.HandlerCall + 3*time.Minute
	// refusalPatience bounds the wait for the reason why a message was not taken.
	refusalPatience = 2 * time.Second
	// closePatience bounds the wait for the other side's close frame.
	closePatience = time.Second
)

// conn adds to a WebSocket what this client needs of it: deadlines by progress, errors
// by class, and answers that come while something is still being written.
type conn struct {
	ws *websocket.Conn
}

// watch returns a context that ends with link.ErrStalled when the patience is over; touch
// begins it anew.
func watch(ctx context.Context, patience time.Duration) (_ context.Context, touch func(time.Duration), stop func()) {
	ctx, cancel := context.WithCancelCause(ctx)
	timer := time.AfterFunc(patience, func() { cancel(link.ErrStalled) })
	return ctx, func(d time.Duration) { timer.Reset(d) }, func() { timer.Stop(); cancel(nil) }
}

// send writes one message, in pieces.
func (c conn) send(ctx context.Context, kind websocket.MessageType, data []byte, progress func(done, total int64)) error {
	ctx, touch, stop := watch(ctx, movePatience)
	defer stop()
	if len(data) <= piece && progress == nil {
		return link.Classify(ctx, c.ws.Write(ctx, kind, data))
	}
	w, err := c.ws.Writer(ctx, kind)
	if err != nil {
		return link.Classify(ctx, err)
	}
	total := int64(len(data))
	for done := int64(0); done < total; {
		n, err := w.Write(data[done:min(done+piece, total)])
		if err != nil {
			return link.Classify(ctx, err)
		}
		touch(movePatience)
		done += int64(n)
		if progress != nil {
			progress(done, total)
		}
	}
	return link.Classify(ctx, w.Close())
}

// begin waits for a text message and returns what reads it, keeping the watch awake.
func (c conn) begin(ctx context.Context, touch func(time.Duration)) (io.Reader, error) {
	c.ws.SetReadLimit(-1) // bounded by who reads, where the error can say so
	kind, r, err := c.ws.Reader(ctx)
	if err != nil {
		return nil, link.Classify(ctx, err)
	}
	if kind != websocket.MessageText {
		return nil, fmt.Errorf("%w: it sent a binary frame where text is due", link.ErrProtocol)
	}
	return &moving{ctx: ctx, r: r, touch: touch}, nil
}

// moving reads a message and says that it moves.
type moving struct {
	ctx   context.Context
	r     io.Reader
	touch func(time.Duration)
	n     int
}

func (m *moving) Read(p []byte) (int, error) {
	n, err := m.r.Read(p)
	if m.n += n; m.n >= piece {
		m.touch(movePatience)
		m.n = 0
	}
	if err != nil && !errors.Is(err, io.EOF) {
		err = link.Classify(m.ctx, err)
	}
	return n, err
}

// message receives one wrapped message of at most limit bytes into v.
func (c conn) message(ctx context.Context, limit int64, touch func(time.Duration), v any) error {
	r, err := c.begin(ctx, touch)
	if err != nil {
		return err
	}
	frame, err := io.ReadAll(io.LimitReader(r, limit+1))
	if err != nil {
		return err
	}
	if int64(len(frame)) > limit {
		return fmt.Errorf("%w: the server's answer has more than %d bytes", link.ErrTooLarge, limit)
	}
	return decode(frame, v)
}

// result receives one result whose output has at most limit bytes.
func (c conn) result(ctx context.Context, limit int64, touch func(time.Duration), v *wire.ResultV1) error {
	r, err := c.begin(ctx, touch)
	if err != nil {
		return err
	}
	touch(movePatience)
	return readResult(r, limit, v)
}

func readResult(r io.Reader, limit int64, v *wire.ResultV1) error {
	output, rest, err := splitResult(r, limit)
	if err != nil {
		return err
	}
	if err := decode(rest, v); err != nil {
		return err
	}
	if len(v.Message) > 0 {
		return fmt.Errorf("%w: its answer holds an output in disguise", link.ErrProtocol)
	}
	v.Message = output // none is an empty one: its checksum tells
	return nil
}

func decode(frame []byte, v any) error {
	err := wire.DecodeV1(frame, v)
	var remote *wire.RemoteError
	switch {
	case errors.As(err, &remote):
		return &link.RemoteError{Code: remote.Code, Text: remote.Text}
	case err != nil:
		return fmt.Errorf("%w: %w", link.ErrProtocol, err)
	}
	return nil
}

// exchange writes by send and reads the answer by read. The answer is awaited from the
// beginning: a server that refuses what is being sent says why, then closes, and the
// broken write would hide it.
func exchange(ctx context.Context, send func(context.Context) error, read func(context.Context, func(time.Duration)) error) error {
	ctx, touch, stop := watch(ctx, sendPatience)
	defer stop()
	answer := make(chan error, 1)
	go func() { answer <- read(ctx, touch) }()
	err := send(ctx)
	if err == nil {
		touch(resultPatience)
		return <-answer
	}
	touch(refusalPatience)
	if said := <-answer; isRemote(said) {
		return said
	}
	return err
}

// close ends with status 1000 and does not wait long for the other side.
func (c conn) close() {
	done := make(chan struct{})
	go func() {
		defer close(done)
		_ = c.ws.Close(websocket.StatusNormalClosure, "") // nothing is left to lose
	}()
	select {
	case <-done:
	case <-time.After(closePatience): // the library gives up by itself, some seconds later
	}
}

func isRemote(err error) bool {
	var remote *link.RemoteError
	return errors.As(err, &remote)
}
