package v2

import (
	"context"
	"errors"
	"fmt"
	"io"
	"sync"

	"github.com/cape-functions/cape/client/internal/link"
	"github.com/cape-functions/cape/core/wire"
)

// errEnded: the enclave wants no more of an input.
var errEnded = errors.New("enclave has answered already")

// source gives out what is to be sent, a record's worth at a time. It reads ahead, beside
// who seals and sends, and is never stuck in a Read.
type source struct {
	rest   []byte // of an input that is in memory
	chunks chan chunk
	free   chan []byte
	quit   chan struct{}
	last   []byte // given out, to be read into again
}

type chunk struct {
	data []byte
	err  error
}

// newSource reads r until its end, at most limit bytes.
func newSource(r io.Reader, limit int64) *source {
	s := &source{chunks: make(chan chunk, 1), free: make(chan []byte, 2), quit: make(chan struct{})}
	for range 2 {
		s.free <- make([]byte, wire.DataPayload)
	}
	go s.read(r, limit)
	return s
}

func (s *source) read(r io.Reader, limit int64) {
	for {
		var buf []byte
		select {
		case buf = <-s.free:
		case <-s.quit:
			return
		}
		n, err := io.ReadFull(r, buf)
		switch limit -= int64(n); {
		case limit < 0:
			n, err = 0, fmt.Errorf("%w: the input has more bytes than are allowed", link.ErrTooLarge)
		case errors.Is(err, io.ErrUnexpectedEOF):
			err = io.EOF
		case err != nil && !errors.Is(err, io.EOF):
			err = fmt.Errorf("reading the input: %w", err)
		}
		select {
		case s.chunks <- chunk{buf[:n], err}:
		case <-s.quit:
			return
		}
		if err != nil {
			return
		}
	}
}

// next returns the next part; io.EOF may come with the last.
func (s *source) next(ctx context.Context, c *Call) ([]byte, error) {
	if s.chunks == nil {
		n := min(len(s.rest), wire.DataPayload)
		part := s.rest[:n]
		if s.rest = s.rest[n:]; len(s.rest) == 0 {
			return part, io.EOF
		}
		return part, nil
	}
	if s.last != nil {
		s.free <- s.last[:wire.DataPayload]
		s.last = nil
	}
	for {
		select {
		case k := <-s.chunks:
			s.last = k.data
			return k.data, k.err
		case <-c.wake:
			if c.done.Load() {
				return nil, errEnded
			}
		case <-c.session.ended:
			return nil, c.session.failed()
		case <-ctx.Done():
			return nil, context.Cause(ctx)
		}
	}
}

func (s *source) stop() {
	if s.quit != nil {
		close(s.quit)
	}
}

// buffer is room for one frame. Big ones go from the reader to who takes the output, and
// back.
type buffer struct{ bytes []byte }

var buffers = sync.Pool{New: func() any { return &buffer{make([]byte, 0, wire.MaxFrame+1)} }}

// free gives a buffer back; nil is fine.
func (b *buffer) free() {
	if b != nil {
		clear(b.bytes)
		buffers.Put(b)
	}
}
