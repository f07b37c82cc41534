package seal

import (
	"crypto/aes"
	"crypto/cipher"
	"crypto/hkdf"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"

	"github.com/cape-functions/cape/core/wire"
)

// RecordOverhead is what sealing adds to a record: the tag.
const RecordOverhead = 16

// Sentinels of records.
var (
	// ErrRecord: a frame is not the next record of its direction: it was changed, repeated,
	// moved, or left out.
	ErrRecord = errors.New("record does not authenticate: it was changed, repeated, moved, or one before it is missing")
	// ErrEmpty: a record without a type is neither sealed nor taken.
	ErrEmpty = errors.New("record is empty")
	// ErrExhausted: the direction carried wire.MaxDirection bytes, all that one key may.
	ErrExhausted = errors.New("session carried as much as its keys may protect: open another")
)

// Channel is a session's records, after the handshake.
type Channel struct {
	// Out seals what is sent, In opens what is received. Each is to be used by one goroutine
	// at a time; the two are independent.
	Out *Sealer
	In  *Opener
	// Transcript is the hash of the handshake.
	Transcript [32]byte
}

// newChannel derives the keys of both directions and wipes the secret.
func newChannel(transcript [32]byte, sessionSecret []byte, caller bool) (*Channel, error) {
	defer clear(sessionSecret)
	prk, err := hkdf.Extract(sha256.New, sessionSecret, transcript[:])
	if err != nil {
		return nil, fmt.Errorf("deriving session keys: %w", err)
	}
	defer clear(prk)
	out, err := newDirection(prk, "c2e")
	if err != nil {
		return nil, err
	}
	in, err := newDirection(prk, "e2c")
	if err != nil {
		return nil, err
	}
	if !caller {
		out, in = in, out
	}
	return &Channel{Out: &Sealer{d: out}, In: &Opener{d: in}, Transcript: transcript}, nil
}

// direction is one AES-256-GCM key, and how far it was used.
type direction struct {
	aead    cipher.AEAD
	iv      [12]byte
	nonce   [12]byte // iv XOR counter; a field, so that no record allocates
	counter uint64
	left    uint64 // bytes that the key may still protect
}

// expand derives key and iv of the direction with this name.
func expand(prk []byte, name string) (key, iv []byte, err error) {
	if key, err = hkdf.Expand(sha256.New, prk, "cape v2 "+name+" key", 32); err != nil {
		return nil, nil, fmt.Errorf("deriving session keys: %w", err)
	}
	if iv, err = hkdf.Expand(sha256.New, prk, "cape v2 "+name+" iv", 12); err != nil {
		return nil, nil, fmt.Errorf("deriving session keys: %w", err)
	}
	return key, iv, nil
}

func newDirection(prk []byte, name string) (direction, error) {
	key, iv, err := expand(prk, name)
	if err != nil {
		return direction{}, err
	}
	defer clear(key)
	block, err := aes.NewCipher(key)
	if err != nil {
		return direction{}, fmt.Errorf("deriving session keys: %w", err)
	}
	aead, err := cipher.NewGCM(block)
	if err != nil {
		return direction{}, fmt.Errorf("deriving session keys: %w", err)
	}
	return direction{aead: aead, iv: [12]byte(iv), left: wire.MaxDirection}, nil
}

// next counts a record of n plaintext bytes and sets its nonce.
func (d *direction) next(n int) error {
	switch {
	case n == 0:
		return ErrEmpty
	case uint64(n) > d.left:
		return ErrExhausted
	}
	d.left -= uint64(n)
	d.nonce = d.iv
	tail := d.nonce[4:]
	binary.BigEndian.PutUint64(tail, binary.BigEndian.Uint64(tail)^d.counter)
	d.counter++
	return nil
}

// Sealer seals the records of one direction. Frames must be sent in the order in which they
// were sealed.
type Sealer struct{ d direction }

// Seal seals record in place and returns the frame, RecordOverhead bytes longer. It
// allocates only if record's capacity lacks them. Errors: ErrEmpty, ErrExhausted.
func (s *Sealer) Seal(record []byte) ([]byte, error) {
	if err := s.d.next(len(record)); err != nil {
		return nil, err
	}
	return s.d.aead.Seal(record[:0], s.d.nonce[:], record, nil), nil
}

// Opener opens the records of one direction.
type Opener struct {
	d    direction
	dead error
}

// Open opens frame in place and returns the record, a part of frame. After an error nothing
// more is opened: the direction is broken for good. Errors: ErrRecord, ErrEmpty, ErrExhausted.
func (o *Opener) Open(frame []byte) ([]byte, error) {
	if o.dead != nil {
		return nil, o.dead
	}
	record, err := o.open(frame)
	if err != nil {
		o.dead = err
		return nil, err
	}
	return record, nil
}

func (o *Opener) open(frame []byte) ([]byte, error) {
	if len(frame) < RecordOverhead {
		return nil, ErrRecord
	}
	if err := o.d.next(len(frame) - RecordOverhead); err != nil {
		return nil, err
	}
	record, err := o.d.aead.Open(frame[:0], o.d.nonce[:], frame, nil)
	if err != nil {
		return nil, ErrRecord
	}
	return record, nil
}
