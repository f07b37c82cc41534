package session

import (
	"context"
	"errors"
	"io"
	"sync"

	"github.com/cape-functions/cape/core/flow"
	"github.com/cape-functions/cape/core/seal"
	"github.com/cape-functions/cape/core/wire"
)

// errCancelled: the client cancelled an invocation, and with it the session's process.
var errCancelled = errors.New("cancelled by the client")

// stream is what began under one id: an input or a function, while it comes and until it is
// answered. It implements io.Reader for the goroutine that answers.
type stream struct {
	box   *inbox
	begin *wire.Begin
	data  pieces
	in    flow.ReceiveCredit
	out   flow.SendCredit
	ended bool // the client sent all of it
}

// inbox holds what came and was not used yet. One goroutine fills it and never waits for
// anything but the client; another one, the answering one, takes from it.
type inbox struct {
	mem    *memory // set before anything is read
	first  string  // kind of id 1
	next   string  // kind of those that follow; empty: there are none
	cancel context.CancelFunc
	watch  *watch
	grant  func(id, bytes uint64) error // sends a window record

	mu     sync.Mutex
	moved  sync.Cond // the answering goroutine may go on
	want   int       // bytes of the oldest stream that it waits for
	ids    flow.Streams
	queue  []*stream // begun and not answered
	coming *stream   // the one that the client sends, answered or not
	err    error     // why nothing more comes
}

func newInbox(w *watch, cancel context.CancelFunc, first, next string) *inbox {
	b := &inbox{watch: w, cancel: cancel, first: first, next: next}
	b.moved.L = &b.mu
	return b
}

// fill reads records until the session ends.
func (b *inbox) fill(c *channel, opener *seal.Opener) {
	buf := make([]byte, 0, 4<<10)
	for {
		frame, err := c.frame(buf, wire.MaxFrame)
		if err == nil {
			buf = frame
			err = b.take(opener, frame)
		}
		if err != nil {
			b.fail(err)
			return
		}
	}
}

// fail ends the session because of err, at once. What came first counts.
func (b *inbox) fail(err error) {
	b.mu.Lock()
	if b.err == nil {
		b.err = err
	}
	b.mu.Unlock()
	b.moved.Signal()
	b.cancel()
}

// take opens one frame. Its errors end the session.
func (b *inbox) take(opener *seal.Opener, frame []byte) error {
	record, err := opener.Open(frame)
	if err != nil {
		return err
	}
	return b.record(record)
}

func (b *inbox) record(record []byte) error {
	if wire.TypeOf(record) == wire.RecordData {
		id, payload, err := wire.ParseData(record)
		if err != nil {
			return err
		}
		return b.received(id, payload)
	}
	m, err := wire.ParseFromClient(record)
	if err != nil {
		return err
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	defer b.moved.Signal()
	switch m := m.(type) {
	case *wire.Begin:
		return b.begin(m)
	case *wire.End:
		return b.end(m.ID)
	case *wire.Cancel:
		if b.open(m.ID) != nil {
			return errCancelled
		}
		return b.known(m.ID)
	case *wire.Window:
		if s := b.open(m.ID); s != nil {
			return s.out.Grant(m.Bytes)
		}
		return b.known(m.ID)
	}
	return nil
}

// begin admits another id; b.mu is held.
func (b *inbox) begin(m *wire.Begin) error {
	kind := b.first
	if m.ID > 1 {
		kind = b.next
	}
	if m.Kind != kind || (m.Manifest != nil && b.next != "") {
		return fatal(wire.CodeInvalidRequest, "this route takes nothing of that kind here", "see the order of records in the protocol")
	}
	if err := b.ids.Begin(m.ID); err != nil {
		return err
	}
	b.coming = &stream{box: b, begin: m, data: pieces{mem: b.mem}, in: flow.NewReceiveCredit(), out: flow.NewSendCredit()}
	b.queue = append(b.queue, b.coming)
	return nil
}

// end notes that all of id came; b.mu is held.
func (b *inbox) end(id uint64) error {
	if err := b.ids.End(id); err != nil {
		return err
	}
	b.coming.ended = true
	if b.coming.tested() {
		return b.ids.Answer(id)
	}
	return nil
}

// tested tells whether s is a function to be tested, which has no answer of its own.
func (s *stream) tested() bool { return s.begin.Kind == wire.KindFunction && s.box.next != "" }

// received keeps payload, or throws it away when its id was answered already.
func (b *inbox) received(id uint64, payload []byte) error {
	b.mu.Lock()
	defer b.mu.Unlock()
	if err := b.ids.Sending(id); err != nil {
		return err
	}
	s := b.coming
	if err := s.in.Receive(len(payload)); err != nil {
		return err
	}
	if b.open(id) == nil {
		return nil
	}
	if err := s.data.write(payload); err != nil {
		return err
	}
	if s.data.held >= b.want {
		b.moved.Signal()
	}
	return nil
}

// open returns a stream that was not answered, or nil; b.mu is held.
func (b *inbox) open(id uint64) *stream {
	for _, s := range b.queue {
		if s.begin.ID == id {
			return s
		}
	}
	return nil
}

// known refuses an id that never began; b.mu is held.
func (b *inbox) known(id uint64) error {
	if b.coming == nil || id > b.coming.begin.ID {
		return flow.ErrFlow
	}
	return nil
}

// await waits until ok holds, and is no work of the enclave's meanwhile; b.mu is held.
func (b *inbox) await(want int, ok func() bool) error {
	if b.err == nil && ok() {
		return nil
	}
	b.watch.end()
	defer b.watch.begin()
	b.want = want
	for b.err == nil && !ok() {
		b.moved.Wait()
	}
	return b.err
}

// oldest waits for a stream to answer: the first as soon as it begins, so that its jail starts
// while it comes, the others when some of them is there.
func (b *inbox) oldest() (*stream, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	err := b.await(smallBuffer, func() bool {
		if len(b.queue) == 0 {
			return false
		}
		s := b.queue[0]
		return s.begin.ID == 1 || s.ended || s.data.held >= smallBuffer
	})
	if err != nil {
		return nil, err
	}
	return b.queue[0], nil
}

// answered takes the oldest stream out.
func (b *inbox) answered(s *stream) error {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.queue = b.queue[1:]
	s.data.drop(len(s.data.list))
	if s.tested() {
		return nil
	}
	return b.ids.Answer(s.begin.ID)
}

// cause is why nothing more comes, or nil.
func (b *inbox) cause() error {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.err
}

// clear forgets everything and returns the ids that were not answered.
func (b *inbox) clear() (ids []uint64) {
	b.mu.Lock()
	defer b.mu.Unlock()
	for _, s := range b.queue {
		ids = append(ids, s.begin.ID)
		s.data.drop(len(s.data.list))
	}
	b.queue = nil
	return ids
}

// Read returns io.EOF only after the record that ends the stream, so that whoever reads to
// the end has what the client sent and nothing less. It waits for pieces worth handing on.
func (s *stream) Read(p []byte) (int, error) {
	b := s.box
	b.mu.Lock()
	want := min(len(p), smallBuffer)
	if err := b.await(want, func() bool { return s.ended || s.data.held >= want }); err != nil {
		b.mu.Unlock()
		return 0, err
	}
	n := s.data.read(p)
	grant := s.in.Use(n)
	ended := s.ended
	b.mu.Unlock()
	if n == 0 && len(p) > 0 {
		return 0, io.EOF
	}
	if grant > 0 && !ended {
		return n, b.grant(s.begin.ID, grant)
	}
	return n, nil
}

// allowance waits until some of n bytes may be sent back, and returns how many.
func (s *stream) allowance(n int) (int, error) {
	b := s.box
	b.mu.Lock()
	defer b.mu.Unlock()
	got := 0
	err := b.await(0, func() bool {
		got = s.out.Take(n)
		return got > 0
	})
	return got, err
}
