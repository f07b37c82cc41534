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
	_ [0]func()
	// Two pointers away from any printer: fmt falls back to reflection for
	// unexported fields and for %p, and then shows an address, not the bytes.
	p *[]byte
}

// New wraps b and takes it over: the caller must not use b afterwards. No copy
// is made, so that Wipe reaches the only one.
func New(b []byte) Bytes { return Bytes{p: &b} }

// Reveal returns the bytes themselves, not a copy. The slice is zeroed by
// Wipe.
func (b Bytes) Reveal() []byte {
	if b.p == nil {
		return nil
	}
	return *b.p
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
	if b.p == nil {
		return
	}
	whole := (*b.p)[:cap(*b.p)]
	clear(whole)
	runtime.KeepAlive(whole)
	*b.p = nil
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
