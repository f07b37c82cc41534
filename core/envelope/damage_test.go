package envelope_test

import (
	"bytes"
	"encoding/base64"
	"encoding/binary"
	"errors"
	"slices"
	"testing"

	"github.com/cape-functions/cape/core/envelope"
)

func TestDamage(t *testing.T) {
	data := seal(t, pattern(2*chunk+100), forFn, false)
	at := payloadAt(data)
	one := seal(t, []byte("x"), forFn, false)
	swap := slices.Concat(data[:at], data[at+sealed:at+2*sealed], data[at:at+sealed], data[at+2*sealed:])
	for _, c := range []struct {
		name string
		data []byte
		want error
	}{
		{"nothing", nil, envelope.ErrFormat},
		{"prefix cut", data[:7], envelope.ErrFormat},
		{"another version", append([]byte("cape:v3:"), data[8:]...), envelope.ErrFormat},
		{"old prefix", append([]byte("cape:"), data[8:]...), envelope.ErrFormat},
		{"length cut", data[:9], envelope.ErrTruncated},
		{"header cut", data[:at-1], envelope.ErrTruncated},
		{"header too long", slices.Concat(data[:8], []byte{0xff, 0xff}, data[10:]), envelope.ErrFormat},
		{"header longer than it is", slices.Concat(data[:8], binary.BigEndian.AppendUint16(nil, uint16(at-9)), data[10:]), envelope.ErrFormat},
		{"no chunk", data[:at], envelope.ErrTruncated},
		{"cut in the first tag", data[:at+15], envelope.ErrTruncated},
		{"first chunk's tag alone", data[:at+16], envelope.ErrDamaged},
		{"after the first chunk", data[:at+sealed], envelope.ErrTruncated},
		{"after the second chunk", data[:at+2*sealed], envelope.ErrTruncated},
		{"a byte after the second chunk", data[:at+2*sealed+1], envelope.ErrTruncated},
		{"a tag after the second chunk", data[:at+2*sealed+16], envelope.ErrTruncated},
		{"in the last chunk", data[:len(data)-1], envelope.ErrDamaged},
		{"in the second chunk", data[:at+sealed+1000], envelope.ErrDamaged},
		{"longer", append(slices.Clip(data), 0), envelope.ErrDamaged},
		{"last chunk twice", slices.Concat(data, data[at+2*sealed:]), envelope.ErrDamaged},
		{"chunks swapped", swap, envelope.ErrDamaged},
		{"chunk left out", slices.Concat(data[:at], data[at+sealed:]), envelope.ErrDamaged},
		{"chunk twice", slices.Concat(data[:at+sealed], data[at:]), envelope.ErrDamaged},
		{"chunks of another", slices.Concat(one[:payloadAt(one)], data[at:]), envelope.ErrDamaged},
		{"first byte changed", flipped(data, at), envelope.ErrDamaged},
		{"last byte changed", flipped(data, len(data)-1), envelope.ErrDamaged},
		{"wrapped key changed", flipped(data, at-1), envelope.ErrDamaged},
	} {
		if _, _, err := open(t, bytes.NewReader(c.data)); !errors.Is(err, c.want) {
			t.Errorf("%s: %v", c.name, err)
		}
		if len(c.data) < 8 || !bytes.HasPrefix(c.data, []byte("cape:v2:")) {
			continue
		}
		if _, _, err := open(t, bytes.NewReader(asText(c.data))); !errors.Is(err, c.want) {
			t.Errorf("%s as text: %v", c.name, err)
		}
	}
}

// Every byte of the header matters: that of "to" most of all.
func TestHeaderIsBound(t *testing.T) {
	data := seal(t, []byte("secret"), forFn, false)
	for i := 8; i < payloadAt(data); i++ {
		if got, _, err := open(t, bytes.NewReader(flipped(data, i))); err == nil || len(got) > 0 {
			t.Fatalf("byte %d changed: %q, %v", i, got, err)
		}
	}
}

func TestTextDamage(t *testing.T) {
	text := seal(t, pattern(100000), forFn, true)
	for _, c := range []struct {
		name string
		text []byte
		want error
	}{
		{"cut within a group", text[:len(text)-1], envelope.ErrFormat},
		{"cut after a group", text[:len(text)/2/4*4], envelope.ErrDamaged},
		{"two newlines", append(slices.Clip(text), "\n\n"...), envelope.ErrFormat},
		{"newline in front", slices.Insert(bytes.Clone(text), 8, '\n'), envelope.ErrFormat},
		{"newlines inside", slices.Insert(bytes.Clone(text), 1000, '\n', '\n', '\n', '\n'), envelope.ErrFormat},
		{"carriage return alone", append(slices.Clip(text), '\r'), envelope.ErrFormat},
		{"after the padding", append(slices.Clip(text), "AAAA"...), envelope.ErrFormat},
		{"padding in the middle", slices.Insert(bytes.Clone(text), 1004, []byte("AA==")...), envelope.ErrFormat},
		{"other alphabet", slices.Insert(bytes.Clone(text), 1004, []byte("AA-_")...), envelope.ErrFormat},
		{"binary after the text prefix", append([]byte("cape:v2,"), seal(t, nil, forFn, false)[8:]...), envelope.ErrFormat},
	} {
		if _, _, err := open(t, bytes.NewReader(c.text)); !errors.Is(err, c.want) {
			t.Errorf("%s: %v", c.name, err)
		}
	}
}

// A padding where one bufferful or block of text ends must not let more text
// follow.
func TestTextPaddingAtBufferEnd(t *testing.T) {
	const block, buffer = 64 << 10, 16 * 64 << 10
	data := seal(t, pattern(3*buffer), forFn, false)
	sizes := []int{block, 2 * block}
	for size := buffer - 16; size < buffer+16; size += 4 {
		sizes = append(sizes, size)
	}
	for _, size := range sizes {
		first := size/4*3 - 1 // bytes that fill size characters with one of padding
		text := slices.Concat([]byte("cape:v2,"),
			[]byte(base64.StdEncoding.EncodeToString(data[8:8+first])),
			[]byte(base64.StdEncoding.EncodeToString(data[8+first:])))
		if _, _, err := open(t, bytes.NewReader(text)); !errors.Is(err, envelope.ErrFormat) {
			t.Errorf("padding before character %d: %v", size, err)
		}
	}
}

// What comes out before an error is a part of the plaintext, never of
// anything else, and never from the damaged chunk on.
func TestNothingBeforeItsChunk(t *testing.T) {
	plaintext := pattern(40 * chunk)
	data := seal(t, plaintext, forFn, false)
	at := payloadAt(data)
	for _, i := range []int{0, 1, 15, 16, 17, 31, 32, 39} {
		got, _, err := open(t, bytes.NewReader(flipped(data, at+i*sealed+sealed/2)))
		if !errors.Is(err, envelope.ErrDamaged) || len(got) > i*chunk || !bytes.Equal(got, plaintext[:len(got)]) {
			t.Errorf("chunk %d changed: %d bytes came out, %v", i, len(got), err)
		}
		if i >= 16 && len(got) == 0 {
			t.Errorf("chunk %d changed: the batch before it was held back", i)
		}
	}
}
