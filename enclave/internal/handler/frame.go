package handler

import (
	"bufio"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"strings"

	"github.com/cape-functions/cape/core/wire"
)

// Kinds of frames. worker.py says what they mean.
const (
	kindInput     = 'i'
	kindCall      = 'c'
	kindDiscard   = 'd'
	kindLoaded    = 'l'
	kindOutput    = 'o'
	kindEnd       = 'e'
	kindException = 'x'
	kindMemory    = 'm'
	kindTooLarge  = 't'
	kindVerdict   = 'v' // check.py's
)

const (
	frameHead = 5
	// maxFrame bounds a frame in either direction.
	maxFrame = 256 << 10
	// inputChunk is what fits a pipe at once.
	inputChunk = 64 << 10
)

// errProtocol: a worker said what it may not say; only a function that writes
// to the worker's descriptors brings it about.
var errProtocol = errors.New("it wrote to the descriptors of the worker")

// putHead writes a frame's head into b.
func putHead(b []byte, kind byte, size int) {
	b[0] = kind
	binary.BigEndian.PutUint32(b[1:], uint32(size))
}

// ofCall are the kinds that a worker sends.
const ofCall = string(kindLoaded) + string(kindOutput) + string(kindEnd) + string(kindException) + string(kindMemory) + string(kindTooLarge)

// readHead reads the head of a frame whose kind is in kinds. Frames of each kind have their own bound.
func readHead(r *bufio.Reader, kinds string) (kind byte, size int, err error) {
	var head [frameHead]byte
	if _, err := io.ReadFull(r, head[:]); err != nil {
		return 0, 0, err
	}
	n := binary.BigEndian.Uint32(head[1:])
	limit := uint32(0)
	if strings.IndexByte(kinds, head[0]) < 0 {
		return 0, 0, errProtocol
	}
	switch head[0] {
	case kindOutput:
		limit = maxFrame
	case kindException:
		limit = wire.MaxErrorText
	case kindVerdict:
		limit = maxVerdict
	}
	if n > limit {
		return 0, 0, errProtocol
	}
	return head[0], int(n), nil
}

// parseException reads type, message and traceback, each behind its length.
func parseException(body []byte) (*FunctionError, error) {
	var e FunctionError
	for _, field := range []*string{&e.Type, &e.Message, &e.Traceback} {
		if len(body) < 4 {
			return nil, fmt.Errorf("%w: exception cut short", errProtocol)
		}
		n := binary.BigEndian.Uint32(body)
		body = body[4:]
		if uint64(n) > uint64(len(body)) {
			return nil, fmt.Errorf("%w: exception cut short", errProtocol)
		}
		*field = strings.ToValidUTF8(string(body[:n]), "\uFFFD")
		body = body[n:]
	}
	if len(body) != 0 || e.Type == "" {
		return nil, fmt.Errorf("%w: exception malformed", errProtocol)
	}
	return &e, nil
}
