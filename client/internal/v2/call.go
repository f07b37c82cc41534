package v2

import (
	"context"
	"crypto/sha256"
	"errors"
	"hash"
	"io"
	"sync"
	"sync/atomic"

	"github.com/cape-functions/cape/core/flow"
	"github.com/cape-functions/cape/core/seal"
	"github.com/cape-functions/cape/core/wire"
)

// maxLogs bounds the bytes of logs that wait for who reads them; later ones are left out.
const maxLogs = 1 << 20

// piece is a part of the output, or of a log if it has a stream.
type piece struct {
	stream string
	data   []byte
	buffer *buffer // that data lies in, to be given back; nil: data is its own
}

// Call is one id: an input and its result, or a function.
type Call struct {
	session *Session
	id      uint64
	kind    string

	// Guarded by the session's mu.
	sent    bool // all of it, or as much as the enclave wanted
	input   [32]byte
	output  hash.Hash
	credit  flow.SendCredit
	receive flow.ReceiveCredit

	mu      sync.Mutex // guards what follows
	pieces  []piece
	logs    int // bytes of logs among pieces
	outcome Outcome
	err     error
	ended   bool

	wake chan struct{} // something changed
	done atomic.Bool   // ended, for a look without a lock
}

func (c *Call) push(p piece) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if p.stream != "" {
		if c.logs+len(p.data) > maxLogs {
			return
		}
		c.logs += len(p.data)
	}
	c.pieces = append(c.pieces, p)
	c.poke()
}

// finish ends the call; without an error its outcome was set.
func (c *Call) finish(err error) {
	c.mu.Lock()
	if !c.ended {
		c.ended, c.err = true, err
	}
	c.mu.Unlock()
	c.done.Store(true)
	c.poke()
}

func (c *Call) poke() {
	select {
	case c.wake <- struct{}{}:
	default:
	}
}

// begin takes the turn, which the caller gives back when all was sent, and an id.
func (s *Session) begin(ctx context.Context, kind string) (*Call, error) {
	if err := s.enter(ctx, s.slots); err != nil {
		return nil, err
	}
	if err := s.enter(ctx, s.turn); err != nil {
		<-s.slots
		return nil, err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	err := s.dead
	if err == nil {
		err = s.given
	}
	if err == nil {
		err = context.Cause(ctx) // both waits may have found a place first
	}
	c := &Call{session: s, kind: kind, id: s.last + 1, output: sha256.New(), credit: flow.NewSendCredit(),
		receive: flow.NewReceiveCredit(), wake: make(chan struct{}, 1)}
	if err == nil {
		err = s.streams.Begin(c.id)
	}
	if err != nil {
		<-s.turn
		<-s.slots
		return nil, err
	}
	s.last = c.id
	s.calls[c.id] = c
	return c, nil
}

// enter waits for room in a channel that counts.
func (s *Session) enter(ctx context.Context, gate chan struct{}) error {
	select {
	case gate <- struct{}{}:
		return nil
	case <-s.ended:
		return s.failed()
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

// take takes credit for at most n bytes, 0 if there is none now.
func (c *Call) take(n int) int {
	c.session.mu.Lock()
	defer c.session.mu.Unlock()
	return c.credit.Take(n)
}

// sendEnd says that all was sent: data with this SHA-256. The caller holds writing.
func (c *Call) sendEnd(sum [32]byte) error {
	s := c.session
	s.mu.Lock()
	err := s.streams.End(c.id)
	c.sent, c.input = true, sum
	s.mu.Unlock()
	if err != nil {
		return err
	}
	return s.writeMessage(&wire.End{ID: c.id})
}

// Invoke sends an input that is at hand, in as few packets as it takes, and returns before
// it is answered.
func (s *Session) Invoke(ctx context.Context, input []byte) (*Call, error) {
	c, err := s.begin(ctx, wire.KindInput)
	if err != nil {
		return nil, err
	}
	defer func() { <-s.turn }()
	if len(input) > wire.DataPayload {
		return c, c.upload(ctx, &wire.Begin{ID: c.id, Kind: c.kind}, &source{rest: input}, nil)
	}
	stop := context.AfterFunc(ctx, func() { s.abandon(c.id) })
	defer stop()
	s.writing.Lock()
	defer s.writing.Unlock()
	s.cork()
	if err := s.writeMessage(&wire.Begin{ID: c.id, Kind: c.kind}); err != nil {
		return nil, err
	}
	if len(input) > 0 {
		c.take(len(input)) // a record's worth is always there to begin with
		if err := s.writeRecord(append(s.dataHead(c.id, len(input)), input...)); err != nil {
			return nil, err
		}
	}
	if err := c.sendEnd(sha256.Sum256(input)); err != nil {
		return nil, err
	}
	return c, s.flush()
}

// dataHead begins a data record of n bytes in the scratch buffer; the caller holds writing.
func (s *Session) dataHead(id uint64, n int) []byte {
	if need := wire.MaxDataHead + n + seal.RecordOverhead; cap(s.scratch) < need {
		s.scratch = make([]byte, 0, max(need, 4<<10))
	}
	return wire.AppendDataHead(s.scratch[:0], id)
}

// Stream sends an input of any size. It returns when all was read and sent, or the enclave
// wants no more of it.
func (s *Session) Stream(ctx context.Context, input io.Reader) (*Call, error) {
	c, err := s.begin(ctx, wire.KindInput)
	if err != nil {
		return nil, err
	}
	defer func() { <-s.turn }()
	return c, c.upload(ctx, &wire.Begin{ID: c.id, Kind: c.kind}, newSource(input, wire.MaxInput), nil)
}

// Function sends a function, with the manifest that says what it is, or none if it is to be
// tested.
func (s *Session) Function(ctx context.Context, manifest, sig []byte, zip io.Reader, progress func(int64)) (*Call, error) {
	c, err := s.begin(ctx, wire.KindFunction)
	if err != nil {
		return nil, err
	}
	defer func() { <-s.turn }()
	begin := &wire.Begin{ID: c.id, Kind: c.kind, Manifest: manifest, Sig: sig}
	if err := c.upload(ctx, begin, newSource(zip, wire.MaxFunctionZip), progress); err != nil {
		return nil, err
	}
	if manifest != nil {
		return c, nil
	}
	// A function that is tested has no answer of its own.
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.dead != nil {
		return nil, s.dead
	}
	return c, s.answer(c.id, nil)
}

// upload sends begin, all of the source, and end. When it cannot, the session is over: half
// of an input is none.
func (c *Call) upload(ctx context.Context, begin *wire.Begin, in *source, progress func(int64)) error {
	defer in.stop()
	stop := context.AfterFunc(ctx, func() { c.session.abandon(c.id) })
	defer stop()
	err := c.pump(ctx, begin, in, progress)
	if ctx.Err() != nil {
		c.session.giveUp() // before the turn is passed on
		return context.Cause(ctx)
	}
	if err != nil {
		c.session.abandon(c.id)
	}
	return err
}

func (c *Call) pump(ctx context.Context, begin *wire.Begin, in *source, progress func(int64)) error {
	s := c.session
	if err := s.send(begin); err != nil {
		return err
	}
	if err := s.Flush(); err != nil {
		return err
	}
	var total int64
	sum := sha256.New() // a function's is in its manifest
	for !c.done.Load() {
		part, end := in.next(ctx, c)
		if errors.Is(end, errEnded) {
			break
		}
		if end != nil && !errors.Is(end, io.EOF) {
			return end
		}
		if c.kind == wire.KindInput {
			sum.Write(part)
		}
		if err := c.sendPart(ctx, part); err != nil {
			return err
		}
		if total += int64(len(part)); progress != nil {
			progress(total)
		}
		if end != nil {
			break
		}
	}
	s.writing.Lock()
	defer s.writing.Unlock()
	return c.sendEnd([32]byte(sum.Sum(nil)))
}

// sendPart sends a record's worth, in as many records as credit asks for.
func (c *Call) sendPart(ctx context.Context, part []byte) error {
	s := c.session
	for len(part) > 0 && !c.done.Load() {
		n := c.take(len(part))
		if n == 0 {
			select {
			case <-c.wake:
			case <-s.ended:
				return s.failed()
			case <-ctx.Done():
				return context.Cause(ctx)
			}
			continue
		}
		s.writing.Lock()
		err := s.writeRecord(append(s.dataHead(c.id, n), part[:n]...))
		s.writing.Unlock()
		if err != nil {
			return err
		}
		part = part[n:]
	}
	return s.failed()
}
