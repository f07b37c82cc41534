package cms

import (
	"bytes"
	"errors"
	"testing"
)

// What the grammar of an answer would refuse anyway, the reader refuses by itself.
func TestElement(t *testing.T) {
	nested := func(depth int) []byte {
		return append(bytes.Repeat([]byte{0x30, 0x80}, depth), make([]byte, 2*depth)...)
	}
	for _, tc := range []struct {
		name string
		ber  []byte
		want error
	}{
		{"as deep as allowed", nested(maxDepth), nil},
		{"deeper", nested(maxDepth + 1), errDepth},
		{"far deeper", nested(1000), errDepth},
		{"tag of several bytes", []byte{0x1f, 0x01, 0x00}, errTag},
		{"constructed tag of several bytes", []byte{0x3f, 0x80, 0x00, 0x00}, errTag},
		{"primitive of indefinite length", []byte{0x04, 0x80, 0x00, 0x00}, errLength},
		{"end mark with content", []byte{0x30, 0x80, 0x00, 0x01, 0x00}, errLength},
		{"end mark missing", []byte{0x30, 0x80, 0x04, 0x00}, errTruncated},
		{"length of two bytes that one would hold", []byte{0x04, 0x81, 0x01, 0x00}, errLength},
		{"length of three bytes that two would hold", append([]byte{0x04, 0x82, 0x00, 0x80}, make([]byte, 128)...), errLength},
		{"length cut", []byte{0x04, 0x82, 0x01}, errLength},
		{"reserved length", []byte{0x04, 0xff}, errLength},
		{"content cut", []byte{0x04, 0x02, 0x00}, errTruncated},
		{"tag alone", []byte{0x04}, errTruncated},
		{"nothing", nil, errTruncated},
	} {
		if _, _, _, err := element(tc.ber, 0); !errors.Is(err, tc.want) {
			t.Errorf("%s: %v", tc.name, err)
		}
	}
	tag, content, rest, err := element([]byte{0x30, 0x80, 0x04, 0x01, 0x07, 0x00, 0x00, 0x05, 0x00}, 0)
	if tag != 0x30 || !bytes.Equal(content, []byte{0x04, 0x01, 0x07}) || !bytes.Equal(rest, []byte{0x05, 0x00}) || err != nil {
		t.Errorf("%#x %x %x %v", tag, content, rest, err)
	}
}
