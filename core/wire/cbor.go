package wire

import (
	"bytes"
	"errors"
	"fmt"
	"sync"

	"github.com/fxamacker/cbor/v2"
)

// ErrMalformed is wrapped by every decoder of this package.
var ErrMalformed = errors.New("malformed message")

// Both modes are made once and never change.
var (
	encMode = sync.OnceValues(cbor.CoreDetEncOptions().EncMode)
	decMode = sync.OnceValues(cbor.DecOptions{
		DupMapKey:         cbor.DupMapKeyEnforcedAPF,
		ExtraReturnErrors: cbor.ExtraDecErrorUnknownField,
		IndefLength:       cbor.IndefLengthForbidden,
		TagsMd:            cbor.TagsForbidden,
		MaxNestedLevels:   8,
		MaxArrayElements:  1024,
		MaxMapPairs:       256,
		UTF8:              cbor.UTF8RejectInvalid,
	}.DecMode)
)

// Marshal encodes v as deterministic CBOR (RFC 8949, 4.2.1).
func Marshal(v any) ([]byte, error) {
	mode, err := encMode()
	if err != nil {
		return nil, err
	}
	return mode.Marshal(v)
}

// Unmarshal decodes deterministic CBOR into v, which must be a pointer to a
// struct or slice. It refuses unknown and duplicate keys, trailing bytes,
// indefinite lengths, tags, and any encoding that Marshal would not have
// written, so that two parsers can never disagree about one message.
func Unmarshal(data []byte, limit int, v any) error {
	if len(data) > limit {
		return fmt.Errorf("%w: %d bytes, at most %d allowed", ErrMalformed, len(data), limit)
	}
	mode, err := decMode()
	if err != nil {
		return err
	}
	if err := mode.Unmarshal(data, v); err != nil {
		return fmt.Errorf("%w: %v", ErrMalformed, err)
	}
	again, err := Marshal(v)
	if err != nil {
		return fmt.Errorf("%w: %v", ErrMalformed, err)
	}
	if !bytes.Equal(again, data) {
		return fmt.Errorf("%w: encoding is not deterministic", ErrMalformed)
	}
	return nil
}
