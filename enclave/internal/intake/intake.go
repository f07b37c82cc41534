package intake

import (
	"context"
	"errors"
	"fmt"
	"io"
	"sync/atomic"

	"github.com/cape-functions/cape/core/wire"
)

// ErrInvalid wraps every refusal; the text of the wrapping error is meant for
// the one who deploys.
var ErrInvalid = errors.New("invalid function")

// Rules bound a function. Zip and Tree of Limits count; both must be set.
type Rules struct {
	Limits wire.LimitsConfig
	// Python ("3.11") and Platform ("linux-x86_64") are what shared objects must fit:
	// handler.Host's. Empty: not checked.
	Python, Platform string
}

// Layout is what a zip holds.
type Layout struct {
	Work  string // folder that holds app.py: the top folder's name, or "."
	Files int
	Bytes int64 // unpacked
	// Room is what the unpacked tree takes: its bytes, and a page for each file and folder.
	Room int64
}

// own names a file in the folder of app.py.
func (l *Layout) own(name string) string {
	if l.Work == "." {
		return name
	}
	return l.Work + "/" + name
}

// handlerName is the file that makes a folder a function.
const handlerName = "app.py"

// Check reads the whole zip and unpacks nothing. checkHandler is given the
// bytes of app.py (handler.Host.Check). Errors: ErrInvalid, ctx's, those of zip
// and of checkHandler.
func Check(ctx context.Context, zip io.ReaderAt, size int64, r Rules, checkHandler func(ctx context.Context, source []byte) error) (*Layout, error) {
	var source []byte
	layout, err := read(ctx, zip, size, r, func(int64) error { return nil }, func(l *Layout, e *entry, content io.Reader) (err error) {
		switch {
		case e.name == l.own(configName):
			text, err := io.ReadAll(io.LimitReader(content, wire.MaxFunctionConfig+1))
			if err == nil {
				_, err = OwnLimits(text, r.Limits)
			}
			return err
		case e.name != l.own(handlerName):
			_, err = io.Copy(io.Discard, content)
			return err
		case e.size > wire.MaxHandlerSource:
			return refuse("%s has %d bytes, at most %d are allowed; move code to other files", e.name, e.size, wire.MaxHandlerSource)
		}
		source, err = io.ReadAll(content)
		return err
	})
	if err != nil {
		return nil, err
	}
	if err := checkHandler(ctx, source); err != nil {
		return nil, err
	}
	return layout, nil
}

// read validates a zip and, if admit has room for it, hands the content of each file to visit.
func read(ctx context.Context, zip io.ReaderAt, size int64, r Rules, admit func(room int64) error, visit func(*Layout, *entry, io.Reader) error) (*Layout, error) {
	src := &source{r: zip}
	layout, err := readAll(ctx, src, size, r, admit, visit)
	if failed := src.failed.Load(); failed != nil && err != nil {
		return nil, fmt.Errorf("reading the zip: %w", *failed) // not the deployer's fault
	}
	if err != nil && ctx.Err() != nil {
		return nil, ctx.Err()
	}
	return layout, err
}

func readAll(ctx context.Context, src *source, size int64, r Rules, admit func(room int64) error, visit func(*Layout, *entry, io.Reader) error) (*Layout, error) {
	if uint64(size) > r.Limits.Zip || size < 0 {
		return nil, refuse("the zip has %d bytes, at most %d are allowed", size, r.Limits.Zip)
	}
	entries, err := readDirectory(ctx, src, size)
	if err != nil {
		return nil, err
	}
	layout, err := inspect(entries, size, r)
	if err != nil {
		return nil, err
	}
	if err := locate(ctx, src, entries); err != nil {
		return nil, err
	}
	if err := admit(layout.Room); err != nil {
		return nil, err
	}
	return layout, eachFile(ctx, src, entries, func(e *entry, content io.Reader) error {
		content, err := checkObject(r, e.name, content)
		if err != nil {
			return err
		}
		return visit(layout, e, content)
	})
}

// refuse makes an error for the deployer.
func refuse(format string, args ...any) error {
	return fmt.Errorf("%w: %s", ErrInvalid, fmt.Sprintf(format, args...))
}

// source remembers an error of the zip's storage, to tell it from a bad zip.
type source struct {
	r      io.ReaderAt
	failed atomic.Pointer[error]
}

// ReadAt implements io.ReaderAt.
func (s *source) ReadAt(p []byte, off int64) (int, error) {
	n, err := s.r.ReadAt(p, off)
	if err != nil && !errors.Is(err, io.EOF) {
		s.failed.CompareAndSwap(nil, &err)
	}
	return n, err
}
