package v2

import (
	"errors"
	"fmt"
	"io"

	"github.com/coder/websocket"

	"github.com/cape-functions/cape/client/internal/link"
	"github.com/cape-functions/cape/core/seal"
	"github.com/cape-functions/cape/core/wire"
)

// handOver is the payload size from which a frame's buffer goes to the call whole, rather
// than a copy.
const handOver = 32 << 10

// read takes every record until the session ends. It never waits for who uses them: credit
// bounds what lies there.
func (s *Session) read(in *seal.Opener) {
	for {
		frame, err := s.frame()
		if err == nil {
			var record []byte
			if record, err = in.Open(frame); err != nil {
				err = fmt.Errorf("%w: %w", link.ErrProtocol, err)
			} else {
				err = s.take(record)
			}
		}
		if err != nil {
			s.fail(err)
			return
		}
		s.heard.Reset(resultPatience)
	}
}

// frame reads one frame into a buffer that the session has not given away.
func (s *Session) frame() ([]byte, error) {
	kind, r, err := s.socket.Reader(s.ctx)
	if err != nil {
		return nil, link.Classify(s.ctx, err)
	}
	if kind != websocket.MessageBinary {
		return nil, fmt.Errorf("%w: it sent text where the sealed protocol has bytes", link.ErrProtocol)
	}
	buf := make([]byte, 0, 2<<10)
	for {
		if len(buf) == cap(buf) {
			if len(buf) > wire.MaxFrame {
				return nil, fmt.Errorf("%w: a frame has more than %d bytes", link.ErrTooLarge, wire.MaxFrame)
			}
			buf = append(make([]byte, 0, min(4*cap(buf), wire.MaxFrame+1)), buf...)
		}
		n, err := r.Read(buf[len(buf):cap(buf)])
		buf = buf[:len(buf)+n]
		if errors.Is(err, io.EOF) {
			return buf, nil
		}
		if err != nil {
			return nil, link.Classify(s.ctx, err)
		}
	}
}

// take handles one record. Its error ends the session.
func (s *Session) take(record []byte) error {
	if wire.TypeOf(record) == wire.RecordData {
		id, payload, err := wire.ParseData(record)
		if err != nil {
			return fmt.Errorf("%w: %w", link.ErrProtocol, err)
		}
		return s.takeData(id, payload)
	}
	m, err := wire.ParseFromEnclave(record)
	if err != nil {
		return fmt.Errorf("%w: %w", link.ErrProtocol, err)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if err := s.takeMessage(m); err != nil {
		if isRemote(err) {
			return err
		}
		return fmt.Errorf("%w: %w", link.ErrProtocol, err)
	}
	return nil
}

var (
	errUnasked = errors.New("the enclave answers what was not asked")
	errOrder   = errors.New("the enclave's records are out of order")
)

func (s *Session) takeData(id uint64, payload []byte) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	c := s.calls[id]
	if s.accepted == nil || c == nil || !c.sent {
		return fmt.Errorf("%w: %w", link.ErrProtocol, errUnasked)
	}
	err := s.streams.Answering(id)
	if err == nil {
		err = c.receive.Receive(len(payload))
	}
	if err != nil {
		return fmt.Errorf("%w: %w", link.ErrProtocol, err)
	}
	c.push(piece{data: payload})
	return nil
}

// takeMessage handles a control record; the caller holds mu.
func (s *Session) takeMessage(m wire.Message) error {
	switch m := m.(type) {
	case *wire.Accepted:
		if s.accepted != nil {
			return errOrder
		}
		s.accepted = m
		if s.dead == nil {
			close(s.known)
		}
		return nil
	case *wire.Failure:
		return s.takeFailure(m)
	}
	if s.accepted == nil {
		return errOrder
	}
	switch m := m.(type) {
	case *wire.Window:
		if c := s.calls[m.ID]; c != nil && !c.sent {
			err := c.credit.Grant(m.Bytes)
			c.poke()
			return err
		}
		return nil // it crossed the end of what it is for
	case *wire.Log:
		if c := s.calls[m.ID]; c != nil {
			c.push(piece{stream: m.Stream, data: m.Data})
			return nil
		}
		return errUnasked
	case *wire.Result:
		c := s.calls[m.ID]
		if c == nil || !c.sent || c.kind != wire.KindInput {
			return errUnasked
		}
		c.result = m
		return s.answer(m.ID, nil)
	case *wire.Deployed:
		c := s.calls[1]
		if c == nil || !c.sent || c.kind != wire.KindFunction {
			return errUnasked
		}
		c.deployed = m
		return s.answer(1, nil)
	}
	return errUnasked
}

// takeFailure ends an id, or the session. A function that was not taken ends the session
// as well: nothing can be asked of it.
func (s *Session) takeFailure(m *wire.Failure) error {
	remote := &link.RemoteError{Code: m.Code, Text: m.Message}
	if m.ID == nil || s.accepted == nil {
		return remote
	}
	c := s.calls[*m.ID]
	if c == nil {
		return errUnasked
	}
	if c.kind == wire.KindFunction {
		return remote
	}
	if !c.sent {
		// The rest of it would be read as what it is not.
		return remote
	}
	return s.answer(*m.ID, remote)
}

// answer ends an id.
func (s *Session) answer(id uint64, err error) error {
	if err := s.streams.Answer(id); err != nil {
		return err
	}
	c := s.calls[id]
	delete(s.calls, id)
	c.finish(err)
	select {
	case <-s.slots:
	default:
	}
	return nil
}

func isRemote(err error) bool {
	var remote *link.RemoteError
	return errors.As(err, &remote)
}
