package envelope

import (
	"crypto/cipher"
	"crypto/rsa"
	"errors"
	"fmt"
	"io"
)

// errClosed is what a Write after Close gets.
var errClosed = errors.New("envelope writer is closed")

// NewWriter starts a cape:v2 envelope on w, text or binary, to the holder of
// pub's private half and the recipient. What is written to the result is the
// plaintext; Close writes the last chunk, without which the envelope does not
// open, and does not close w. Until Close returns, w belongs to the envelope:
// it is written to in the background. Call Close after an error as well, so
// that this ends. Errors: ErrKey, ErrTo.
func NewWriter(w io.Writer, pub *rsa.PublicKey, to To, text bool) (io.WriteCloser, error) {
	head, gcm, err := sealHeader(pub, to)
	if err != nil {
		return nil, err
	}
	s := &writer{w: w, gcm: gcm, plain: make([]byte, 0, batchSize)}
	prefix := prefixBinary
	if text {
		prefix = prefixText
		s.text = newTextWriter(w)
		s.w = s.text
	}
	if _, err := io.WriteString(w, prefix); err != nil {
		return nil, fmt.Errorf("writing envelope: %w", err)
	}
	if _, err := s.w.Write(head); err != nil {
		return nil, fmt.Errorf("writing envelope: %w", err)
	}
	s.sealed = make([]byte, sealedBatch)
	return s, nil
}

type writer struct {
	w       io.Writer
	text    *textWriter // s.w, if the form is text
	gcm     cipher.AEAD
	plain   []byte // not sealed yet; a full batch waits until it is known not to be the last
	spare   []byte // the batch that is being sealed, or nil
	sealed  []byte
	counter uint64
	pending chan error // the outcome of the batch being sealed, or nil
	err     error
}

func (s *writer) Write(p []byte) (int, error) {
	done := 0
	for len(p) > 0 {
		if err := s.makeRoom(); err != nil {
			return done, err
		}
		n := copy(s.plain[len(s.plain):cap(s.plain)], p)
		s.plain = s.plain[:len(s.plain)+n]
		p, done = p[n:], done+n
	}
	return done, s.err
}

// ReadFrom lets io.Copy fill the batch without a buffer of its own. An error
// of r stays: Close then writes no end, so that what was read so far can never
// pass for the whole.
func (s *writer) ReadFrom(r io.Reader) (int64, error) {
	var done int64
	var one [1]byte
	for s.err == nil {
		room := s.plain[len(s.plain):cap(s.plain)]
		if len(room) == 0 {
			// Only one byte more tells that the batch is not the last.
			room = one[:]
		}
		n, err := readFull(r, room)
		if len(s.plain) == cap(s.plain) {
			// Its error is s.err.
			_, _ = s.Write(room[:n])
		} else {
			s.plain = s.plain[:len(s.plain)+n]
		}
		done += int64(n)
		if err != nil {
			s.err = err
		} else if n < len(room) {
			return done, s.err
		}
	}
	return done, s.err
}

func (s *writer) makeRoom() error {
	if s.err == nil && len(s.plain) == cap(s.plain) {
		s.err = s.flush(false)
	}
	return s.err
}

// flush seals the batch. Unless it is the last it does so beside the caller,
// who meanwhile reads the next one; an error then shows at the next flush.
func (s *writer) flush(last bool) error {
	if err := s.settle(); err != nil {
		return err
	}
	batch, first := s.plain, s.counter
	s.counter += uint64(chunks(len(batch)))
	if last {
		return s.emit(batch, first, true)
	}
	if s.spare == nil {
		s.spare = make([]byte, 0, batchSize)
	}
	s.plain, s.spare = s.spare[:0], batch
	outcome := make(chan error, 1)
	s.pending = outcome
	go func() { outcome <- s.emit(batch, first, false) }()
	return nil
}

// settle waits for the batch that is being sealed.
func (s *writer) settle() error {
	if s.pending == nil {
		return nil
	}
	err := <-s.pending
	s.pending = nil
	return err
}

func (s *writer) emit(batch []byte, first uint64, last bool) error {
	if _, err := s.w.Write(sealChunks(s.gcm, s.sealed, batch, first, last)); err != nil {
		return fmt.Errorf("writing envelope: %w", err)
	}
	return nil
}

// Close writes the end. After an error it writes nothing and reports that
// error; when called again it does nothing.
func (s *writer) Close() error {
	if errors.Is(s.err, errClosed) {
		return nil
	}
	err := s.err
	if pending := s.settle(); err == nil {
		err = pending
	}
	if err == nil {
		err = s.flush(true)
	}
	if err == nil && s.text != nil {
		err = s.text.end()
	}
	clear(s.plain[:cap(s.plain)])
	clear(s.spare[:cap(s.spare)])
	s.err = errClosed
	return err
}

// MaxSealedSize is the most bytes an envelope of plain bytes of plaintext can
// take in any form with any key.
func MaxSealedSize(plain int64) int64 {
	binarySize := int64(PrefixSize) + 2 + maxHeader + plain + tagSize*(plain/ChunkSize+1)
	return int64(PrefixSize) + (binarySize+2)/3*4
}
