package envelope

import (
	"crypto/cipher"
	"crypto/rsa"
	"encoding/binary"
	"fmt"
	"io"
)

// NewReader opens a cape:v2 envelope, text or binary, from r. allow sees the
// recipient first and may refuse it with an error of its own; then find
// returns the private key whose public half has this SHA-256 over its SPKI.
// Both must be given. The header is authenticated by the time NewReader
// returns. Whoever reads must take any error but io.EOF as "the plaintext is
// not whole". Errors: ErrFormat, ErrTruncated, ErrDamaged, ErrKey, and those
// of find, allow and r.
func NewReader(r io.Reader, find func(keyHash [32]byte) (*rsa.PrivateKey, error), allow func(To) error) (io.Reader, To, error) {
	src, err := payloadSource(r)
	if err != nil {
		return nil, To{}, err
	}
	encoded, err := readHeader(src)
	if err != nil {
		return nil, To{}, err
	}
	h, to, err := parseHeader(encoded)
	if err != nil {
		return nil, To{}, err
	}
	if err := allow(to); err != nil {
		return nil, To{}, err
	}
	priv, err := find([32]byte(h.Key))
	if err != nil {
		return nil, To{}, err
	}
	gcm, err := h.open(priv, encoded)
	if err != nil {
		return nil, To{}, err
	}
	return &reader{src: src, gcm: gcm, sealed: make([]byte, sealedBatch+1), plain: make([]byte, batchSize)}, to, nil
}

// payloadSource reads the prefix and returns what follows it as bytes.
func payloadSource(r io.Reader) (io.Reader, error) {
	var head [PrefixSize]byte
	n, err := readFull(r, head[:])
	if err != nil {
		return nil, err
	}
	switch Detect(head[:n]) {
	case V2Binary:
		return r, nil
	case V2Text:
		return newTextReader(r), nil
	}
	return nil, fmt.Errorf("%w: it does not begin with %q or %q", ErrFormat, prefixBinary, prefixText)
}

func readHeader(src io.Reader) ([]byte, error) {
	var size [2]byte
	if err := readAll(src, size[:]); err != nil {
		return nil, err
	}
	n := binary.BigEndian.Uint16(size[:])
	if n > maxHeader {
		return nil, fmt.Errorf("%w: header of %d bytes, at most %d allowed", ErrFormat, n, maxHeader)
	}
	encoded := make([]byte, n)
	return encoded, readAll(src, encoded)
}

// readAll fills p, or says that the envelope is cut short.
func readAll(r io.Reader, p []byte) error {
	n, err := readFull(r, p)
	if err == nil && n < len(p) {
		return ErrTruncated
	}
	return err
}

// readFull fills p from r. It returns fewer bytes without an error only at the
// end. Other than io.ReadFull it keeps an io.ErrUnexpectedEOF of r itself an
// error: that one tells of lost data.
func readFull(r io.Reader, p []byte) (int, error) {
	n, idle := 0, 0
	for n < len(p) {
		m, err := r.Read(p[n:])
		n += m
		if n == len(p) || err == io.EOF {
			break
		}
		if idle++; m > 0 {
			idle = 0
		}
		if err == nil && idle > 100 {
			err = io.ErrNoProgress
		}
		if err != nil {
			return n, fmt.Errorf("reading: %w", err)
		}
	}
	return n, nil
}

type reader struct {
	src     io.Reader
	gcm     cipher.AEAD
	sealed  []byte // a batch and the byte that tells it is not the last
	ahead   int    // bytes of sealed read already: 0 or 1
	plain   []byte
	out     []byte // authentic, not delivered yet
	counter uint64
	err     error
}

func (s *reader) Read(p []byte) (int, error) {
	if len(p) == 0 {
		return 0, nil
	}
	for len(s.out) == 0 {
		if s.err != nil {
			return 0, s.err
		}
		s.fill()
	}
	n := copy(p, s.out)
	s.out = s.out[n:]
	return n, nil
}

// WriteTo lets io.Copy take whole batches.
func (s *reader) WriteTo(w io.Writer) (int64, error) {
	var done int64
	for {
		if len(s.out) == 0 && s.err == io.EOF {
			return done, nil
		}
		if len(s.out) == 0 && s.err != nil {
			return done, s.err
		}
		if len(s.out) == 0 {
			s.fill()
			continue
		}
		n, err := w.Write(s.out)
		s.out, done = s.out[n:], done+int64(n)
		if err != nil {
			return done, err
		}
	}
}

// fill opens the next batch. It sets s.err at the end, io.EOF if all is well.
func (s *reader) fill() {
	n, err := readFull(s.src, s.sealed[s.ahead:])
	if err != nil {
		s.end(err)
		return
	}
	batch := s.sealed[:s.ahead+n]
	last := len(batch) < len(s.sealed)
	if !last {
		batch = s.sealed[:sealedBatch]
	}
	if last && s.cutShort(len(batch)) {
		s.end(ErrTruncated)
		return
	}
	out, count, err := openChunks(s.gcm, s.plain, batch, s.counter, last)
	if err != nil {
		s.end(err)
		return
	}
	s.out, s.counter = out, s.counter+uint64(count)
	if last {
		s.err = io.EOF
		return
	}
	s.sealed[0], s.ahead = s.sealed[sealedBatch], 1
}

// cutShort tells whether a last batch of n bytes cannot be the end: its last
// chunk holds nothing, and is not the only one.
func (s *reader) cutShort(n int) bool {
	if s.counter == 0 && n == tagSize {
		return false
	}
	rest := n % sealedChunk
	return n == 0 || rest != 0 && rest <= tagSize
}

func (s *reader) end(err error) {
	clear(s.plain)
	s.out, s.err = nil, err
}
