package cli

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"os"

	"github.com/cape-functions/cape/client"
)

// input returns what a function is to be given: -f first ("-" is stdin), else the
// argument, which may be empty.
func (a *app) input(file string, given []string) ([]byte, error) {
	switch {
	case file == "-":
		return readAll(a.Stdin, "stdin", client.MaxInput)
	case file != "":
		return readLimited(file, client.MaxInput)
	case len(given) > 0:
		return []byte(given[0]), nil
	}
	return nil, fmt.Errorf("%w: an input is missing: give it as an argument, in a file with -f FILE, or on stdin with -f -", errUsage)
}

// readAll reads a stream of at most limit bytes, without growing over and over when
// it is a file.
func readAll(r io.Reader, name string, limit int64) ([]byte, error) {
	var buf bytes.Buffer
	if f, ok := r.(*os.File); ok {
		if info, err := f.Stat(); err == nil && info.Mode().IsRegular() {
			if info.Size() > limit {
				return nil, fmt.Errorf("%w: %s has %d bytes, %d are allowed", client.ErrTooLarge, name, info.Size(), limit)
			}
			buf.Grow(int(info.Size()) + bytes.MinRead)
		}
	}
	if _, err := buf.ReadFrom(io.LimitReader(r, limit+1)); err != nil {
		return nil, fmt.Errorf("reading %s: %w", name, err)
	}
	if int64(buf.Len()) > limit {
		return nil, fmt.Errorf("%w: %s has more than %d bytes", client.ErrTooLarge, name, limit)
	}
	return buf.Bytes(), nil
}

// printJSON writes one line of JSON, without escaping what HTML would mind.
func (a *app) printJSON(v any) error {
	e := json.NewEncoder(a.Stdout)
	e.SetEscapeHTML(false)
	return e.Encode(v)
}

func (a *app) print(parts ...[]byte) error {
	for _, p := range parts {
		if _, err := a.Stdout.Write(p); err != nil {
			return fmt.Errorf("writing the result: %w", err)
		}
	}
	return nil
}
