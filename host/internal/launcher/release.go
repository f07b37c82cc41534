package launcher

import (
	"bytes"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"

	"github.com/cape-functions/cape/core/wire"
)

// maxRelease bounds a release file, in bytes.
const maxRelease = 64 << 10

// ErrRelease: a release file cannot be used.
var ErrRelease = errors.New("unusable release file")

// ReadRelease reads what a publisher says of an image: the JSON of wire.Release,
// with at least PCR0, PCR1 and PCR2. Errors wrap ErrRelease.
func ReadRelease(path string) (*wire.Release, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrRelease, err)
	}
	defer f.Close()
	text, err := io.ReadAll(io.LimitReader(f, maxRelease+1))
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrRelease, err)
	}
	if len(text) > maxRelease {
		return nil, fmt.Errorf("%w: %s has more than %d bytes", ErrRelease, path, maxRelease)
	}
	var r wire.Release
	d := json.NewDecoder(bytes.NewReader(text))
	if err := d.Decode(&r); err != nil {
		return nil, fmt.Errorf("%w: %s: %w", ErrRelease, path, err)
	}
	if _, err := d.Token(); !errors.Is(err, io.EOF) {
		return nil, fmt.Errorf("%w: %s: something stands behind the object", ErrRelease, path)
	}
	for _, name := range []string{"PCR0", "PCR1", "PCR2"} {
		if b, err := hex.DecodeString(r.Measurements[name]); err != nil || len(b) != 48 {
			return nil, fmt.Errorf("%w: %s: %s is missing or not 96 hexadecimal digits", ErrRelease, path, name)
		}
	}
	return &r, nil
}

// Differs returns the first register of which a and b say different things, or "".
func Differs(a, b map[string]string) string {
	for _, name := range []string{"PCR0", "PCR1", "PCR2", "PCR8"} {
		if a[name] != b[name] {
			return name
		}
	}
	return ""
}
