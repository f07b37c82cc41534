package flow

import (
	"errors"
	"fmt"

	"github.com/cape-functions/cape/core/wire"
)

// ErrFlow: the other side broke the rules of ids or credit.
var ErrFlow = errors.New("other side broke the rules of the protocol's streams")

// SendCredit is how much may still be sent of one id. It is not safe for concurrent use.
type SendCredit struct{ left int64 }

// NewSendCredit is the credit of an id that begins.
func NewSendCredit() SendCredit { return SendCredit{left: wire.InitialCredit} }

// Take uses up at most n bytes and returns how many: 0 means wait for a window record.
func (c *SendCredit) Take(n int) int {
	got := min(int64(n), c.left)
	c.left -= got
	return int(got)
}

// Grant adds what a window record granted. Error: ErrFlow when there would be more than
// wire.MaxCredit.
func (c *SendCredit) Grant(n uint64) error {
	if n > wire.MaxCredit || c.left+int64(n) > wire.MaxCredit {
		return fmt.Errorf("%w: credit of more than %d bytes", ErrFlow, wire.MaxCredit)
	}
	c.left += int64(n)
	return nil
}

// ReceiveCredit is what the other side may still send of one id. It is not safe for
// concurrent use.
type ReceiveCredit struct{ left, used int64 }

// NewReceiveCredit is the credit of an id that begins.
func NewReceiveCredit() ReceiveCredit { return ReceiveCredit{left: wire.InitialCredit} }

// Receive counts payload that came. Error: ErrFlow when it was not granted.
func (c *ReceiveCredit) Receive(n int) error {
	if int64(n) > c.left {
		return fmt.Errorf("%w: payload without credit", ErrFlow)
	}
	c.left -= int64(n)
	return nil
}

// Use counts payload that was passed on and returns how much to grant in a window record
// now: 0, or what makes the credit whole again once half of it is gone.
func (c *ReceiveCredit) Use(n int) uint64 {
	c.used += int64(n)
	if c.used < wire.InitialCredit/2 {
		return 0
	}
	grant := c.used
	c.used, c.left = 0, c.left+grant
	return uint64(grant)
}

// Streams is the order of ids in one session, as both ends see it: they begin at 1, one
// after another, are sent whole one after another, and are answered in the same order. At
// most wire.MaxStreams are begun and not answered. It is not safe for concurrent use.
type Streams struct {
	begun    uint64 // the last id that began
	sent     uint64 // the last id whose client sent all of it
	answered uint64 // the last id that was answered
}

// Begin counts a begin record from the client. Error: ErrFlow.
func (s *Streams) Begin(id uint64) error {
	switch {
	case id != s.begun+1:
		return fmt.Errorf("%w: id %d began after %d", ErrFlow, id, s.begun)
	case s.sent != s.begun:
		return fmt.Errorf("%w: id %d began before the end of the one before it", ErrFlow, id)
	case s.begun-s.answered >= wire.MaxStreams:
		return fmt.Errorf("%w: more than %d ids are open", ErrFlow, wire.MaxStreams)
	}
	s.begun = id
	return nil
}

// Room tells whether another id may begin now.
func (s *Streams) Room() bool { return s.sent == s.begun && s.begun-s.answered < wire.MaxStreams }

// Sending tells with an error whether data or end of id may come from the client.
func (s *Streams) Sending(id uint64) error {
	if id != s.begun || s.sent == s.begun {
		return fmt.Errorf("%w: id %d is not being sent", ErrFlow, id)
	}
	return nil
}

// End counts an end record from the client. Error: ErrFlow.
func (s *Streams) End(id uint64) error {
	if err := s.Sending(id); err != nil {
		return err
	}
	s.sent = id
	return nil
}

// Answering tells with an error whether data, log or the result of id may come from the
// enclave: only the oldest open id is answered.
func (s *Streams) Answering(id uint64) error {
	if id != s.answered+1 || id > s.begun {
		return fmt.Errorf("%w: id %d is not the next to be answered", ErrFlow, id)
	}
	return nil
}

// Answer counts a result or failure of id. Error: ErrFlow.
func (s *Streams) Answer(id uint64) error {
	if err := s.Answering(id); err != nil {
		return err
	}
	s.answered = id
	return nil
}

// Open is how many ids began and were not answered.
func (s *Streams) Open() int { return int(s.begun - s.answered) }
