package vault

import (
	"bufio"
	"crypto/aes"
	"crypto/cipher"
	"encoding/binary"
	"errors"
	"fmt"
	"io"

	"github.com/cape-functions/cape/core/secret"
	"github.com/cape-functions/cape/core/wire"
)

const (
	tagSize     = 16
	sealedChunk = wire.StoredChunk + tagSize
)

// sealedSize is the length of the ciphertext of size bytes.
func sealedSize(size int64) int64 {
	return size + tagSize*max(1, (size+wire.StoredChunk-1)/wire.StoredChunk)
}

func newAEAD(dek secret.Bytes) (cipher.AEAD, error) {
	block, err := aes.NewCipher(dek.Reveal())
	if err != nil {
		return nil, fmt.Errorf("using data key: %w", err)
	}
	return cipher.NewGCM(block)
}

// chunkNonce is an 11-byte big-endian counter and the last flag.
func chunkNonce(counter uint64, last bool) []byte {
	n := make([]byte, 12)
	binary.BigEndian.PutUint64(n[3:11], counter)
	if last {
		n[11] = 1
	}
	return n
}

// sealer encrypts size bytes of src while it is read. A DEK seals one function once, so that
// counters never repeat under a key.
type sealer struct {
	src     io.Reader
	aead    cipher.AEAD
	aad     []byte
	left    int64
	counter uint64
	plain   []byte
	sealed  []byte
	out     []byte
	done    bool
}

func newSealer(src io.Reader, size int64, aead cipher.AEAD, aad [32]byte) *sealer {
	return &sealer{src: src, aead: aead, aad: aad[:], left: size,
		plain: make([]byte, wire.StoredChunk), sealed: make([]byte, 0, sealedChunk)}
}

func (s *sealer) Read(p []byte) (int, error) {
	if len(s.out) == 0 {
		if s.done {
			return 0, io.EOF
		}
		n := min(s.left, wire.StoredChunk)
		if _, err := io.ReadFull(s.src, s.plain[:n]); err != nil {
			return 0, fmt.Errorf("reading function: %w", noEOF(err))
		}
		s.left -= n
		s.done = s.left == 0
		s.out = s.aead.Seal(s.sealed, chunkNonce(s.counter, s.done), s.plain[:n], s.aad)
		s.counter++
	}
	n := copy(p, s.out)
	s.out = s.out[n:]
	return n, nil
}

// wipe forgets the last plaintext.
func (s *sealer) wipe() { clear(s.plain) }

func noEOF(err error) error {
	if errors.Is(err, io.EOF) {
		return io.ErrUnexpectedEOF
	}
	return err
}

// open decrypts src to dst, at most limit bytes, and returns how many. dst gets only what
// was authenticated; whatever it got must be thrown away after an error.
func open(dst io.Writer, src io.Reader, limit int64, aead cipher.AEAD, aad [32]byte) (int64, error) {
	r := bufio.NewReaderSize(src, sealedChunk+1)
	plain := make([]byte, 0, wire.StoredChunk)
	defer clear(plain[:cap(plain)])
	var total int64
	for counter := uint64(0); ; counter++ {
		chunk, last, err := nextChunk(r)
		if err != nil {
			return total, err
		}
		out, err := aead.Open(plain, chunkNonce(counter, last), chunk, aad[:])
		if err != nil {
			if _, err := aead.Open(plain, chunkNonce(counter, false), chunk, aad[:]); last && err == nil {
				return total, ErrTruncated
			}
			return total, ErrDamaged
		}
		if len(out) == 0 && counter > 0 {
			return total, ErrDamaged // only an empty plaintext has an empty chunk
		}
		if total += int64(len(out)); total > limit {
			return total, ErrOversized
		}
		if _, err := dst.Write(out); err != nil {
			return total, fmt.Errorf("writing function: %w", err)
		}
		if last {
			return total, nil
		}
		if _, err := r.Discard(len(chunk)); err != nil {
			return total, fmt.Errorf("%w: %w", ErrUnavailable, err)
		}
	}
}

// nextChunk peeks at one chunk; it is the last one when nothing follows it.
func nextChunk(r *bufio.Reader) (chunk []byte, last bool, err error) {
	b, err := r.Peek(sealedChunk + 1)
	switch {
	case err == nil:
		return b[:sealedChunk], false, nil
	case !errors.Is(err, io.EOF):
		return nil, false, fmt.Errorf("%w: %w", ErrUnavailable, err)
	case len(b) < tagSize:
		return nil, false, ErrTruncated
	}
	return b, true, nil
}
