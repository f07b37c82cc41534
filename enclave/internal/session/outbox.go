package session

import (
	"crypto/sha256"
	"fmt"
	"hash"
	"sync"

	"github.com/coder/websocket"

	"github.com/cape-functions/cape/core/seal"
	"github.com/cape-functions/cape/core/wire"
)

// outbox seals records and sends them in the order in which they were sealed. Any goroutine
// may use it; each waits for the client, at most the time of one write.
type outbox struct {
	c *channel

	mu     sync.Mutex
	sealer *seal.Sealer
	buf    []byte // of control records
	logs   uint64 // id whose logs may be sent; 0: none
}

// answering says whose logs may be sent from now on; 0: nobody's. What a function prints
// between two inputs belongs to neither.
func (o *outbox) answering(id uint64) {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.logs = id
}

// send sends control records; together they leave in one write.
func (o *outbox) send(messages ...wire.Message) error { return o.flush(nil, messages...) }

// flush is send, behind a data record if there is one; data is overwritten.
func (o *outbox) flush(data []byte, messages ...wire.Message) error {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.seal(data, messages)
}

func (o *outbox) seal(data []byte, messages []wire.Message) error {
	if len(data) > 0 {
		// Copying a large record only to save a write is no gain.
		o.c.corked.cork.Store(len(data) < smallBuffer && len(messages) > 0)
		if err := o.write(data); err != nil {
			return err
		}
	}
	for i, m := range messages {
		record, err := wire.AppendMessage(o.buf[:0], m)
		if err != nil {
			return fmt.Errorf("encoding record: %w", err)
		}
		o.buf = record
		o.c.corked.cork.Store(i < len(messages)-1)
		if err := o.write(record); err != nil {
			return err
		}
	}
	return nil
}

func (o *outbox) write(record []byte) error {
	frame, err := o.sealer.Seal(record)
	if err != nil {
		return err
	}
	return o.c.write(websocket.MessageBinary, frame)
}

// output takes a result and sends it in records, within the client's credit and at most limit
// bytes. It implements io.Writer.
type output struct {
	out    *outbox
	stream *stream
	limit  int64
	sum    hash.Hash
	head   int    // length of what stands before the payload
	record []byte // the record that is being filled
}

func newOutput(o *outbox, s *stream, limit int64, buf []byte) *output {
	record := wire.AppendDataHead(buf[:0], s.begin.ID)
	return &output{out: o, stream: s, limit: limit, sum: sha256.New(), head: len(record), record: record}
}

// Write implements io.Writer. Errors: errLimit, and those that end the session.
func (w *output) Write(p []byte) (int, error) {
	written := len(p)
	if w.limit -= int64(len(p)); w.limit < 0 {
		return 0, errLimit
	}
	w.sum.Write(p)
	for len(p) > 0 {
		if room := wire.DataPayload - (len(w.record) - w.head); room > 0 {
			n := min(room, len(p))
			w.makeRoom(n)
			w.record, p = append(w.record, p[:n]...), p[n:]
			continue
		}
		if err := w.flush(); err != nil {
			return 0, err
		}
	}
	return written, nil
}

// makeRoom grows a record that becomes large once and for all, so that it is sealed in place.
func (w *output) makeRoom(n int) {
	need := len(w.record) + n + seal.RecordOverhead
	if need > cap(w.record) && need > smallBuffer {
		w.record = append(make([]byte, 0, wire.MaxFrame), w.record...)
	}
}

// flush sends what is in the record, as credit allows, in as many records as that takes.
func (w *output) flush() error { return w.deliver(nil) }

// finish is flush, and ends the stream with result, in the same write as its last record.
func (w *output) finish(result *wire.Result) error { return w.deliver(result) }

func (w *output) deliver(result *wire.Result) error {
	for {
		payload := w.record[w.head:]
		n, err := 0, error(nil)
		if len(payload) > 0 {
			if n, err = w.stream.allowance(len(payload)); err != nil {
				return err
			}
		}
		switch {
		case n < len(payload):
			part := append(append(make([]byte, 0, w.head+n+seal.RecordOverhead), w.record[:w.head]...), payload[:n]...)
			err = w.out.flush(part)
			w.record = append(w.record[:w.head], payload[n:]...)
		case result == nil:
			err = w.out.flush(w.record)
			w.record = wire.AppendDataHead(w.record[:0], w.stream.begin.ID)
			return err
		default:
			return w.end(result)
		}
		if err != nil {
			return err
		}
	}
}

// end takes the stream out before the client can know that it was answered.
func (w *output) end(result *wire.Result) error {
	w.out.answering(0)
	if err := w.stream.box.answered(w.stream); err != nil {
		return err
	}
	if len(w.record) == w.head {
		return w.out.send(result)
	}
	return w.out.flush(w.record, result)
}

// logs sends what a handler prints as log records of the stream that is answered.
type logs struct {
	out    *outbox
	stream string
}

// Write implements io.Writer.
func (l *logs) Write(p []byte) (int, error) {
	l.out.mu.Lock()
	defer l.out.mu.Unlock()
	for rest := p; len(rest) > 0 && l.out.logs != 0; {
		n := min(len(rest), wire.MaxLogData)
		if err := l.out.seal(nil, []wire.Message{&wire.Log{ID: l.out.logs, Stream: l.stream, Data: rest[:n]}}); err != nil {
			return 0, err
		}
		rest = rest[n:]
	}
	return len(p), nil
}
