package v2

import (
	"bytes"
	"context"
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
	room := &buffer{make([]byte, 0, 4<<10)}
	for {
		var err error
		if room, err = s.frame(room); err == nil {
			var record []byte
			if record, err = in.Open(room.bytes); err != nil {
				err = fmt.Errorf("%w: %w", link.ErrProtocol, err)
			} else {
				room, err = s.take(record, room)
			}
		}
		if err != nil {
			s.fail(err)
			return
		}
		s.heard.Reset(resultPatience)
	}
}

// frame reads one frame into room, or into a big buffer if it does not fit.
func (s *Session) frame(room *buffer) (*buffer, error) {
	kind, r, err := s.socket.Reader(context.Background()) // as writeFrame
	if err != nil {
		return nil, link.Classify(s.ctx, err)
	}
	if kind != websocket.MessageBinary {
		return nil, fmt.Errorf("%w: it sent text where the sealed protocol has bytes", link.ErrProtocol)
	}
	buf := room.bytes[:0]
	for {
		if len(buf) == cap(buf) {
			if len(buf) > wire.MaxFrame {
				return nil, fmt.Errorf("%w: a frame has more than %d bytes", link.ErrTooLarge, wire.MaxFrame)
			}
			room = buffers.Get().(*buffer)
			buf = append(room.bytes[:0], buf...)
		}
		n, err := r.Read(buf[len(buf):cap(buf)])
		buf = buf[:len(buf)+n]
		if errors.Is(err, io.EOF) {
			room.bytes = buf
			return room, nil
		}
		if err != nil {
			return nil, link.Classify(s.ctx, err)
		}
	}
}

// take handles one record, which lies in room, and returns room for the next. Its error
// ends the session.
func (s *Session) take(record []byte, room *buffer) (*buffer, error) {
	if wire.TypeOf(record) == wire.RecordData {
		return s.takeData(record, room)
	}
	m, err := wire.ParseFromEnclave(record)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", link.ErrProtocol, err)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if err := s.takeMessage(m); err != nil {
		if isRemote(err) || errors.Is(err, link.ErrChecksum) {
			return nil, err
		}
		return nil, fmt.Errorf("%w: %w", link.ErrProtocol, err)
	}
	return room, nil
}

var (
	errUnasked = errors.New("the enclave answers what was not asked")
	errOrder   = errors.New("the enclave's records are out of order")
)

func (s *Session) takeData(record []byte, room *buffer) (*buffer, error) {
	id, payload, err := wire.ParseData(record)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", link.ErrProtocol, err)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	c := s.calls[id]
	if s.accepted == nil || c == nil || !c.sent || c.kind != wire.KindInput {
		return nil, fmt.Errorf("%w: %w", link.ErrProtocol, errUnasked)
	}
	if err = s.streams.Answering(id); err == nil {
		err = c.receive.Receive(len(payload))
	}
	if err != nil {
		return nil, fmt.Errorf("%w: %w", link.ErrProtocol, err)
	}
	c.output.Write(payload)
	if len(payload) < handOver {
		c.push(piece{data: bytes.Clone(payload)})
		return room, nil
	}
	c.push(piece{data: payload, buffer: room})
	return buffers.Get().(*buffer), nil
}

// takeMessage handles a control record; the caller holds mu.
func (s *Session) takeMessage(m wire.Message) error {
	switch m := m.(type) {
	case *wire.Accepted:
		if s.accepted != nil {
			return errOrder
		}
		s.accepted = m
		if m.Fn != nil {
			s.function = [32]byte(m.Fn)
		}
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
		if err := s.streams.Answering(m.ID); err != nil {
			return err
		}
		if err := c.verify(m); err != nil {
			return err
		}
		return s.answer(m.ID, nil)
	case *wire.Deployed:
		c := s.calls[1]
		if c == nil || !c.sent || c.kind != wire.KindFunction {
			return errUnasked
		}
		c.outcome.Deployed = m
		return s.answer(1, nil)
	}
	return errUnasked
}

// takeFailure ends an id, or the session. An id may fail before all of it was sent: who
// sends it sees that and stops.
func (s *Session) takeFailure(m *wire.Failure) error {
	remote := &link.RemoteError{Code: m.Code, Text: m.Message}
	if m.ID == nil || s.accepted == nil {
		return remote
	}
	if s.calls[*m.ID] == nil {
		return errUnasked
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
