package v2

import (
	"context"
	"fmt"
	"sync"
	"time"

	"github.com/coder/websocket"

	"github.com/cape-functions/cape/client/internal/link"
	"github.com/cape-functions/cape/core/flow"
	"github.com/cape-functions/cape/core/keypolicy"
	"github.com/cape-functions/cape/core/seal"
	"github.com/cape-functions/cape/core/wire"
)

// Options set up a session.
type Options struct {
	// MaxOutput bounds a result in bytes.
	MaxOutput int64
	// Log is told what handlers print, if the enclave sends it; nil: nobody looks. It is
	// called from the goroutine that awaits the result.
	Log func(stream string, data []byte)
	// Births remembers birth documents; nil remembers nothing.
	Births *keypolicy.Births
}

// Session is an open session. It is safe for concurrent use: ids are sent whole one after
// another, and answered in that order.
type Session struct {
	socket   *link.Socket
	attested *seal.Attested
	options  Options
	close    context.CancelCauseFunc
	ctx      context.Context // of the connection

	turn    chan struct{} // held while one id is being sent
	slots   chan struct{} // one for each id that is not answered
	writing sync.Mutex    // guards what follows
	out     *seal.Sealer
	scratch []byte
	corked  bool
	stall   *time.Timer

	mu       sync.Mutex // guards what follows
	streams  flow.Streams
	last     uint64 // id that began
	calls    map[uint64]*Call
	accepted *wire.Accepted
	dead     error
	given    error // why a call was given up, if one was
	audit    *seal.Auditor
	function [32]byte // checksum that results must carry

	known chan struct{} // closed once accepted or dead
	ended chan struct{} // closed once dead
	heard *time.Timer   // runs out when nothing is heard while an answer is due
}

const (
	// resultPatience bounds the silence while an answer is due: loading, start and call.
	resultPatience = wire.HandlerStart + wire.HandlerCall + 3*time.Minute
	// cancelPatience bounds the attempt to tell the enclave that a call was given up.
	cancelPatience = 500 * time.Millisecond
	// onePiece is the largest frame that the WebSocket library writes at once.
	onePiece = 4 << 10
	// closePatience bounds the wait for the other side's close frame.
	closePatience = time.Second
)

// newSession begins the records; open, the last frame of the handshake, is sent with the
// first of them or at Flush.
func newSession(socket *link.Socket, attested *seal.Attested, channel *seal.Channel, open []byte, o Options) *Session {
	s := &Session{socket: socket, attested: attested, options: o, out: channel.Out, calls: map[uint64]*Call{},
		turn: make(chan struct{}, 1), slots: make(chan struct{}, wire.MaxStreams), audit: seal.NewAuditor(attested),
		known: make(chan struct{}), ended: make(chan struct{})}
	s.ctx, s.close = context.WithCancelCause(context.Background())
	s.stall = time.AfterFunc(movePatience, func() { s.fail(link.ErrStalled) })
	s.heard = time.AfterFunc(resultPatience, func() { s.fail(link.ErrStalled) })
	s.writing.Lock()
	s.cork()
	err := s.writeFrame(open)
	s.writing.Unlock()
	if err != nil {
		s.fail(err)
	}
	go s.read(channel.In)
	return s
}

// Attested returns what was verified of the enclave.
func (s *Session) Attested() *seal.Attested { return s.attested }

// Accepted waits for the enclave to say what it serves. It is verified in form alone.
func (s *Session) Accepted(ctx context.Context) (*wire.Accepted, error) {
	// A session that failed since may have been accepted before: known tells.
	_ = s.Flush()
	select {
	case <-s.known:
	case <-ctx.Done():
		return nil, context.Cause(ctx)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.accepted == nil {
		return nil, s.dead
	}
	return s.accepted, nil
}

// SetFunction says which checksum results must carry.
func (s *Session) SetFunction(sum [32]byte) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.function = sum
}

// fail ends the session for the reason, if it has not ended before.
func (s *Session) fail(reason error) {
	s.mu.Lock()
	first := s.dead == nil
	if s.given != nil {
		reason = s.given
	}
	if first {
		s.dead = reason
		close(s.ended)
		if s.accepted == nil {
			close(s.known)
		}
		for _, c := range s.calls {
			c.finish(reason)
		}
		clear(s.calls)
	}
	s.mu.Unlock()
	if first {
		s.stall.Stop()
		s.heard.Stop()
		s.close(reason)
		_ = s.socket.CloseNow()
	}
}

// failed returns why the session has ended, nil if it has not.
func (s *Session) failed() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.dead
}

// Flush sends what is held back.
func (s *Session) Flush() error {
	s.writing.Lock()
	defer s.writing.Unlock()
	return s.flush()
}

func (s *Session) flush() error {
	if err := s.failed(); err != nil {
		return err
	}
	s.stall.Reset(movePatience)
	defer s.stall.Stop()
	s.corked = false
	if err := s.socket.Uncork(); err != nil {
		s.fail(link.Classify(s.ctx, err))
		return s.failed()
	}
	return nil
}

// writeFrame sends one frame; the caller holds writing.
func (s *Session) writeFrame(frame []byte) error {
	s.stall.Reset(movePatience)
	defer s.stall.Stop()
	s.heard.Reset(resultPatience)
	alone := !s.corked && len(frame) > onePiece
	if alone {
		s.socket.Cork()
	}
	// fail ends what is under way by closing the connection: a context would cost more
	// than the call.
	err := s.socket.Write(context.Background(), websocket.MessageBinary, frame)
	if alone {
		if end := s.socket.Uncork(); err == nil {
			err = end
		}
	}
	return link.Classify(s.ctx, err)
}

// cork holds back what is written until flush; the caller holds writing.
func (s *Session) cork() {
	s.corked = true
	s.socket.Cork()
}

// writeRecord seals and sends what the caller, who holds writing, has put together. It
// ends the session when it fails, and says why that one ended.
func (s *Session) writeRecord(record []byte) error {
	if err := s.failed(); err != nil {
		return err
	}
	frame, err := s.out.Seal(record)
	if err == nil {
		err = s.writeFrame(frame)
	}
	if err != nil {
		s.refused()
		s.fail(err)
		return s.failed()
	}
	return nil
}

// refused gives the reader a moment: a server that ends a session says why before, and the
// broken write would hide it.
func (s *Session) refused() {
	select {
	case <-s.ended:
	case <-time.After(cancelPatience):
	}
}

// writeMessage sends a control record; the caller holds writing.
func (s *Session) writeMessage(m wire.Message) error {
	record, err := wire.AppendMessage(s.scratch[:0], m)
	if err != nil {
		return err
	}
	s.scratch = record[:0]
	if cap(record)-len(record) < seal.RecordOverhead {
		record = append(make([]byte, 0, len(record)+512), record...)
		s.scratch = record[:0]
	}
	return s.writeRecord(record)
}

// send sends one control record at once.
func (s *Session) send(m wire.Message) error {
	s.writing.Lock()
	defer s.writing.Unlock()
	return s.writeMessage(m)
}

// Close ends the session, and with it the function's process. Calls get ErrClosed.
func (s *Session) Close() {
	if s.failed() != nil {
		return
	}
	done := make(chan struct{})
	go func() {
		defer close(done)
		if s.Flush() == nil {
			_ = s.socket.Close(websocket.StatusNormalClosure, "") // nothing is left to lose
		}
	}()
	select {
	case <-done:
	case <-time.After(closePatience): // the library gives up by itself, some seconds later
	}
	s.fail(link.ErrClosed)
}

// giveUp lets nothing begin any more.
func (s *Session) giveUp() {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.given == nil {
		s.given = fmt.Errorf("%w: a call was given up, which ends the function's process", link.ErrClosed)
	}
}

// abandon tells the enclave to stop id and ends the session.
func (s *Session) abandon(id uint64) {
	s.giveUp()
	give := time.AfterFunc(cancelPatience, func() { s.fail(link.ErrClosed) })
	defer give.Stop()
	_ = s.send(&wire.Cancel{ID: id}) // if it cannot be said, the end of the connection says it
	s.fail(link.ErrClosed)
}
