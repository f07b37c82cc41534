package envelope

import (
	"bytes"
	"errors"
)

// Sentinels.
var (
	// ErrFormat: not an envelope of that form, or not encoded strictly.
	ErrFormat = errors.New("not a well-formed Cape envelope")
	// ErrTruncated: the end is missing, at a place where nothing was damaged.
	ErrTruncated = errors.New("Cape envelope is cut short: its end is missing")
	// ErrDamaged: wrong key, or bytes were changed or cut within a chunk.
	ErrDamaged = errors.New("Cape envelope does not open: it was sealed to another key, or was changed")
	// ErrKey: the RSA key is not usable for envelopes (2048 to 4096 bits), or
	// is not the one the header names.
	ErrKey = errors.New("not a Cape Key for this envelope")
	// ErrTo: the recipient is not one that a header can name.
	ErrTo = errors.New("not a recipient that an envelope can name")
)

// Form tells the formats apart.
type Form int

// The forms, by their prefix.
const (
	NotSealed Form = iota // anything else
	Old                   // "cape:": text, or raw in a deploy
	V2Binary              // "cape:v2:"
	V2Text                // "cape:v2,"
)

const (
	prefixOld    = "cape:"
	prefixBinary = "cape:v2:"
	prefixText   = "cape:v2,"
	// PrefixSize is how many bytes Detect needs to see.
	PrefixSize = len(prefixBinary)
)

// Detect tells by the first PrefixSize bytes (or all, if there are fewer)
// which form the data is in. Deploy bodies are always Old and raw: they are
// not asked about, since eight of their bytes are random.
func Detect(head []byte) Form {
	switch {
	case bytes.HasPrefix(head, []byte(prefixBinary)):
		return V2Binary
	case bytes.HasPrefix(head, []byte(prefixText)):
		return V2Text
	case bytes.HasPrefix(head, []byte(prefixOld)):
		return Old
	}
	return NotSealed
}

// IsSealed tells whether an input is an envelope of any form, which the
// enclave opens before the handler sees it.
func IsSealed(input []byte) bool { return Detect(input) != NotSealed }
