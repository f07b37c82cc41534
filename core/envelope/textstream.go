package envelope

import (
	"encoding/base64"
	"encoding/binary"
	"fmt"
	"io"
	"sync/atomic"
)

// A text batch is base64 worked on together: enough blocks for several cores.
const (
	textBlocks    = 16
	textBlockSize = textBlock / 4 * 3 // bytes that make a block of base64
)

// textWriter encodes base64 as a stream, in large writes.
type textWriter struct {
	w     io.Writer
	carry [3]byte // bytes that do not fill a group
	held  int
	out   []byte
}

func newTextWriter(w io.Writer) *textWriter {
	return &textWriter{w: w, out: make([]byte, 0, base64.StdEncoding.EncodedLen(sealedBatch)+4)}
}

func (t *textWriter) Write(p []byte) (int, error) {
	size := len(p)
	t.out = t.out[:0]
	if t.held > 0 {
		n := copy(t.carry[t.held:], p)
		t.held, p = t.held+n, p[n:]
		if t.held < len(t.carry) {
			return size, nil
		}
		t.out = base64.StdEncoding.AppendEncode(t.out, t.carry[:])
	}
	whole := p[:len(p)/3*3]
	t.held = copy(t.carry[:], p[len(whole):])
	t.encode(whole)
	if _, err := t.w.Write(t.out); err != nil {
		return 0, err
	}
	return size, nil
}

// encode appends the base64 of src, whole groups, to t.out.
func (t *textWriter) encode(src []byte) {
	at, n := len(t.out), base64.StdEncoding.EncodedLen(len(src))
	if cap(t.out)-at < n {
		t.out = append(make([]byte, 0, at+n), t.out...)
	}
	t.out = t.out[:at+n]
	dst := t.out[at:]
	spread((len(src)+textBlockSize-1)/textBlockSize, func(i int) {
		part := src[i*textBlockSize : min((i+1)*textBlockSize, len(src))]
		encodeGroups(dst[i*textBlock:min((i+1)*textBlock, n)], part)
	})
}

// pairs are the two base64 characters of every 12 bits, little-endian: what is
// encoded is ciphertext, so a table leaks nothing.
var pairs = func() *[4096]uint16 {
	const alphabet = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/"
	var table [4096]uint16
	for i := range table {
		table[i] = uint16(alphabet[i>>6]) | uint16(alphabet[i&63])<<8
	}
	return &table
}()

// encodeGroups is base64 of whole groups, at twice the speed of the standard
// library: this is where sealing as text spends its time. dst has the exact
// size.
func encodeGroups(dst, src []byte) {
	for len(src) >= 8 && len(dst) >= 8 {
		v := binary.BigEndian.Uint64(src)
		binary.LittleEndian.PutUint64(dst, uint64(pairs[v>>52])|uint64(pairs[v>>40&0xfff])<<16|
			uint64(pairs[v>>28&0xfff])<<32|uint64(pairs[v>>16&0xfff])<<48)
		dst, src = dst[8:], src[6:]
	}
	base64.StdEncoding.Encode(dst, src)
}

// end writes the last group with its padding.
func (t *textWriter) end() error {
	if _, err := t.w.Write(base64.StdEncoding.AppendEncode(nil, t.carry[:t.held])); err != nil {
		return fmt.Errorf("writing envelope: %w", err)
	}
	return nil
}

// textReader decodes base64 as a stream, strictly, with one line break
// allowed at the end.
type textReader struct {
	r       io.Reader
	buf     []byte // text not decoded yet
	decoded []byte // bytes not delivered yet
	room    []byte
	padded  bool // the padding was seen: nothing may follow
	err     error
}

func newTextReader(r io.Reader) *textReader {
	const size = textBlocks * textBlock
	return &textReader{r: r, buf: make([]byte, 0, size), room: make([]byte, size/4*3)}
}

func (t *textReader) Read(p []byte) (int, error) {
	for len(t.decoded) == 0 {
		if t.err != nil {
			return 0, t.err
		}
		t.decoded, t.err = t.fill()
	}
	n := copy(p, t.decoded)
	t.decoded = t.decoded[n:]
	return n, nil
}

// fill reads and decodes one batch. Short of the end it keeps the last few
// characters back: they may be padding and the line break.
func (t *textReader) fill() ([]byte, error) {
	n, err := readFull(t.r, t.buf[len(t.buf):cap(t.buf)])
	if err != nil {
		return nil, err
	}
	t.buf = t.buf[:len(t.buf)+n]
	last := len(t.buf) < cap(t.buf)
	take := (len(t.buf) - 2) / 4 * 4
	if last {
		t.buf = trimNewline(t.buf)
		take = len(t.buf)
	}
	out, err := t.decode(t.buf[:take])
	if err != nil {
		return nil, err
	}
	t.buf = t.buf[:copy(t.buf[:cap(t.buf)], t.buf[take:])]
	if last {
		return out, io.EOF
	}
	return out, nil
}

// decode decodes whole groups into t.room.
func (t *textReader) decode(text []byte) ([]byte, error) {
	if len(text)%4 != 0 {
		return nil, errGroup
	}
	if t.padded && len(text) > 0 {
		return nil, errPadding
	}
	var failed atomic.Pointer[error]
	n := (len(text) + textBlock - 1) / textBlock
	sizes := make([]int, n)
	spread(n, func(i int) {
		block := text[i*textBlock : min((i+1)*textBlock, len(text))]
		// Bounded: the decoder may write past what it decodes.
		size, err := decodeText(t.room[i*textBlockSize:(i+1)*textBlockSize], block)
		sizes[i] = size
		if err == nil && i < n-1 && size < textBlockSize {
			err = errPadding
		}
		if err != nil {
			failed.Store(&err)
		}
	})
	if err := failed.Load(); err != nil {
		return nil, *err
	}
	if n == 0 {
		return nil, nil
	}
	t.padded = sizes[n-1] < len(text[(n-1)*textBlock:])/4*3
	return t.room[:(n-1)*textBlockSize+sizes[n-1]], nil
}
