package secret

import (
	"crypto/subtle"
	"errors"
	"fmt"
	"log/slog"
	"runtime"
)

// Redacted is what every printer and encoder shows instead of the bytes.
const Redacted = "[redacted]"

// ErrEncode is returned by the binary encodings, where a placeholder could be
// mistaken for the secret.
var ErrEncode = errors.New("a secret is not encoded: call Reveal where the bytes are meant to leave")

// Bytes holds a key or a plaintext. Copies of a Bytes share the same bytes:
// wiping one wipes all. The zero value is empty. The type does not compile in
// a comparison with ==; use Equal.
type Bytes struct {
	// A function, because nothing that prints by reflection looks into one:
	// fmt does so for unexported fields, %p, and verbs it does not know.
	// It also makes == a compile error.
	get func() *[]byte
}

// New wraps b and takes it over: the caller must not use b afterwards. No copy
// is made, so that Wipe reaches the only one.
func New(b []byte) Bytes { return Bytes{get: func() *[]byte { return &b }} }

// Reveal returns the bytes themselves, not a copy. The slice is zeroed by
// Wipe.
func (b Bytes) Reveal() []byte {
	if b.get == nil {
		return nil
	}
	return *b.get()
}

// Len is the number of bytes.
func (b Bytes) Len() int { return len(b.Reveal()) }

// Equal tells in constant time whether both hold the same bytes. Only the
// length can be learned from the time it takes.
func (b Bytes) Equal(other Bytes) bool {
	return subtle.ConstantTimeCompare(b.Reveal(), other.Reveal()) == 1
}

// Wipe overwrites the bytes, up to the capacity of the slice, and forgets
// them. Every copy of b is empty afterwards. Copies that Go's runtime or other
// code made are out of its reach.
func (b Bytes) Wipe() {
	if b.get == nil {
		return
	}
	p := b.get()
	whole := (*p)[:cap(*p)]
	clear(whole)
	runtime.KeepAlive(whole)
	*p = nil
}

// String returns Redacted.
func (b Bytes) String() string { return Redacted }

// GoString returns Redacted.
func (b Bytes) GoString() string { return Redacted }

// Format writes Redacted, whatever the verb and flags.
func (b Bytes) Format(f fmt.State, _ rune) {
	// A printer has nowhere to report this error.
	_, _ = f.Write([]byte(Redacted))
}

// LogValue returns Redacted.
func (b Bytes) LogValue() slog.Value { return slog.StringValue(Redacted) }

// MarshalJSON returns Redacted as a JSON string.
func (b Bytes) MarshalJSON() ([]byte, error) { return []byte(`"` + Redacted + `"`), nil }

// MarshalText returns Redacted.
func (b Bytes) MarshalText() ([]byte, error) { return []byte(Redacted), nil }

// MarshalBinary refuses with ErrEncode; encoding/gob uses it.
func (b Bytes) MarshalBinary() ([]byte, error) { return nil, ErrEncode }

// MarshalCBOR refuses with ErrEncode.
func (b Bytes) MarshalCBOR() ([]byte, error) { return nil, ErrEncode }
