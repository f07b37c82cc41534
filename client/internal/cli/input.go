package cli

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"strings"

	"github.com/cape-functions/cape/client"
)

// input returns what a function is to be given: -f first ("-" is stdin), else the
// argument, which may be empty. Close it after use.
func (a *app) input(file string, given []string) (io.ReadCloser, error) {
	switch {
	case file == "-":
		return io.NopCloser(a.Stdin), nil
	case file != "":
		return openInput(file)
	case len(given) > 0:
		return io.NopCloser(strings.NewReader(given[0])), nil
	}
	return nil, fmt.Errorf("%w: an input is missing: give it as an argument, in a file with -f FILE, or on stdin with -f -", errUsage)
}

// openInput opens a file, and refuses early what is too large to be sent.
func openInput(file string) (io.ReadCloser, error) {
	f, err := os.Open(file)
	if err != nil {
		return nil, err
	}
	info, err := f.Stat()
	switch {
	case err == nil && info.IsDir():
		err = fmt.Errorf("%w: %s is a folder", errUsage, file)
	case err == nil && info.Mode().IsRegular() && info.Size() > client.MaxInput:
		err = fmt.Errorf("%w: %s has %d bytes, %d are allowed", client.ErrTooLarge, file, info.Size(), int64(client.MaxInput))
	}
	if err != nil {
		_ = f.Close() // nothing was written
		return nil, err
	}
	return f, nil
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
