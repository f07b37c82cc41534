package nitro

import (
	"errors"
	"fmt"

	"github.com/fxamacker/cbor/v2"
)

// CBOR major types, RFC 8949, 3.1.
const (
	majorUint  = 0
	majorNint  = 1
	majorBytes = 2
	majorText  = 3
	majorArray = 4
	majorMap   = 5
)

// null is the only simple value that stands for an absent field.
const null = 0xf6

// Structural limits of the decoder. Real documents nest 2 deep and hold 32 PCRs; the
// rest is room for fields that do not exist yet.
const (
	maxNesting  = 8
	maxElements = 64
)

var errType = errors.New("unexpected CBOR type")

// decoder reads one item and nothing after it. Indefinite lengths pass, because the NSM
// writes them. Tags do not: an NSM writes none, and libraries differ in how they count and
// check them.
var decoder = newDecoder()

func newDecoder() cbor.DecMode {
	mode, err := cbor.DecOptions{
		DupMapKey:        cbor.DupMapKeyEnforcedAPF,
		MaxNestedLevels:  maxNesting,
		MaxArrayElements: maxElements,
		MaxMapPairs:      maxElements,
		IndefLength:      cbor.IndefLengthAllowed,
		TagsMd:           cbor.TagsForbidden,
		UTF8:             cbor.UTF8RejectInvalid,
	}.DecMode()
	if err != nil {
		panic(err) // the options above are constants: a test of any kind would see it
	}
	return mode
}

// want refuses items of another major type. The decoder alone would take an array for a
// byte string and null for a zero.
func want(raw []byte, major byte) error {
	if len(raw) == 0 || raw[0]>>5 != major {
		return errType
	}
	return nil
}

func decode(raw []byte, major byte, into any) error {
	if err := want(raw, major); err != nil {
		return err
	}
	return decoder.Unmarshal(raw, into)
}

// bytesOf reads a byte string of at most limit bytes.
func bytesOf(raw []byte, limit int) ([]byte, error) {
	b := []byte{}
	if err := decode(raw, majorBytes, &b); err != nil {
		return nil, err
	}
	if len(b) > limit {
		return nil, fmt.Errorf("%d bytes, at most %d are allowed", len(b), limit)
	}
	return b, nil
}

// optionalBytes is bytesOf for a field that may be absent or null: nil then.
func optionalBytes(raw []byte, limit int) ([]byte, error) {
	if len(raw) == 0 || len(raw) == 1 && raw[0] == null {
		return nil, nil
	}
	return bytesOf(raw, limit)
}

// textKey is a map key that must be a text string.
type textKey string

// UnmarshalCBOR implements [cbor.Unmarshaler].
func (k *textKey) UnmarshalCBOR(raw []byte) error {
	return decode(raw, majorText, (*string)(k))
}

// indexKey is a map key that must be the index of a PCR.
type indexKey int

// UnmarshalCBOR implements [cbor.Unmarshaler].
func (k *indexKey) UnmarshalCBOR(raw []byte) error {
	var n uint64
	if err := decode(raw, majorUint, &n); err != nil {
		return err
	}
	if n >= MaxPCRs {
		return fmt.Errorf("PCR index %d, the highest is %d", n, MaxPCRs-1)
	}
	*k = indexKey(n)
	return nil
}

// label is a COSE header label: an integer or a text string.
type label struct {
	number int64
	text   string
	isText bool
}

// UnmarshalCBOR implements [cbor.Unmarshaler].
func (l *label) UnmarshalCBOR(raw []byte) error {
	if want(raw, majorText) == nil {
		l.isText = true
		return decoder.Unmarshal(raw, &l.text)
	}
	if want(raw, majorUint) != nil && want(raw, majorNint) != nil {
		return errType
	}
	return decoder.Unmarshal(raw, &l.number)
}

// appendHead writes the head of an item in its shortest form.
func appendHead(b []byte, major byte, n uint64) []byte {
	m := major << 5
	switch {
	case n < 24:
		return append(b, m|byte(n))
	case n < 1<<8:
		return append(b, m|24, byte(n))
	case n < 1<<16:
		return append(b, m|25, byte(n>>8), byte(n))
	case n < 1<<32:
		return append(b, m|26, byte(n>>24), byte(n>>16), byte(n>>8), byte(n))
	}
	return append(b, m|27, byte(n>>56), byte(n>>48), byte(n>>40), byte(n>>32),
		byte(n>>24), byte(n>>16), byte(n>>8), byte(n))
}

func appendText(b []byte, s string) []byte {
	return append(appendHead(b, majorText, uint64(len(s))), s...)
}

func appendBytes(b, s []byte) []byte {
	return append(appendHead(b, majorBytes, uint64(len(s))), s...)
}

// appendOptional writes null for nil, as an NSM does for what the caller left out.
func appendOptional(b, s []byte) []byte {
	if s == nil {
		return append(b, null)
	}
	return appendBytes(b, s)
}
