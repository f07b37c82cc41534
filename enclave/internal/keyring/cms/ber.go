package cms

import (
	"errors"
	"fmt"
)

// Tags that occur (X.690, 8.1.2): class and number, with the constructed bit where set.
const (
	tagEnd         = 0x00
	tagInteger     = 0x02
	tagOctets      = 0x04
	tagNull        = 0x05
	tagOID         = 0x06
	tagSequence    = 0x30
	tagSet         = 0x31
	tagContext0    = 0x80 // [0], primitive
	tagContext0Con = 0xa0 // [0], constructed
	tagContext1Con = 0xa1 // [1], constructed

	bitConstructed = 0x20
)

// maxDepth bounds nesting; the shape itself is 7 deep.
const maxDepth = 8

var (
	errTruncated = errors.New("it ends too early")
	errLength    = errors.New("a length is not allowed")
	errDepth     = errors.New("it is nested too deeply")
	errTag       = errors.New("an element is of another type")
	errTrailing  = errors.New("there is more than there should be")
)

// reader reads the elements of one constructed element, one after the other. The first
// error sticks, so a caller may read on and look once at the end.
type reader struct {
	rest []byte
	err  error
}

// next returns the content of the next element, which must have that tag.
func (r *reader) next(tag byte) []byte {
	if r.err != nil {
		return nil
	}
	got, content, rest, err := element(r.rest, 0)
	if err == nil && got != tag {
		err = fmt.Errorf("%w: %#02x instead of %#02x", errTag, got, tag)
	}
	if err != nil {
		r.err = err
		return nil
	}
	r.rest = rest
	return content
}

// into returns a reader of the next element, which must have that tag.
func (r *reader) into(tag byte) *reader { return &reader{rest: r.next(tag), err: r.err} }

// peek tells the tag of the next element, 0 when there is none.
func (r *reader) peek() byte {
	if r.err != nil || len(r.rest) == 0 {
		return 0
	}
	return r.rest[0]
}

// end takes over the error of a reader of one of r's elements, which must be at its end.
func (r *reader) end(inner *reader) {
	if r.err != nil {
		return
	}
	r.err = inner.err
	if r.err == nil && len(inner.rest) != 0 {
		r.err = errTrailing
	}
}

// element splits b into the first element's tag and content and what follows it. The
// content of an indefinite length comes without its end mark.
func element(b []byte, depth int) (tag byte, content, rest []byte, err error) {
	if depth > maxDepth {
		return 0, nil, nil, errDepth
	}
	if len(b) < 2 {
		return 0, nil, nil, errTruncated
	}
	tag = b[0]
	if tag&0x1f == 0x1f {
		return 0, nil, nil, fmt.Errorf("%w: a tag of several bytes", errTag)
	}
	length, head, err := definite(b[1:])
	if err != nil {
		return 0, nil, nil, err
	}
	b = b[1+head:]
	if length >= 0 {
		if length > len(b) {
			return 0, nil, nil, errTruncated
		}
		return tag, b[:length], b[length:], nil
	}
	if tag&bitConstructed == 0 {
		return 0, nil, nil, fmt.Errorf("%w: a primitive element of indefinite length", errLength)
	}
	return indefinite(tag, b, depth)
}

// indefinite finds the end mark that belongs to the element whose content b begins with.
func indefinite(tag byte, b []byte, depth int) (byte, []byte, []byte, error) {
	for rest := b; ; {
		inner, content, after, err := element(rest, depth+1)
		if err != nil {
			return 0, nil, nil, err
		}
		if inner == tagEnd {
			if len(content) != 0 {
				return 0, nil, nil, fmt.Errorf("%w: an end mark with content", errLength)
			}
			return tag, b[:len(b)-len(rest)], after, nil
		}
		rest = after
	}
}

// definite reads a length; -1 is an indefinite one. Lengths over 65535 or in more bytes
// than they need are refused: nothing in an answer of KMS has them.
func definite(b []byte) (length, size int, err error) {
	switch first := b[0]; {
	case first < 0x80:
		return int(first), 1, nil
	case first == 0x80:
		return -1, 1, nil
	case first == 0x81 && len(b) >= 2 && b[1] >= 0x80:
		return int(b[1]), 2, nil
	case first == 0x82 && len(b) >= 3 && b[1] != 0:
		return int(b[1])<<8 | int(b[2]), 3, nil
	}
	return 0, 0, errLength
}
