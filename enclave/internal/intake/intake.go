package intake

import (
	"archive/zip"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path"

	"github.com/cape-functions/cape/core/wire"
)

// ErrInvalid wraps every refusal; the text of the wrapping error is meant for
// the one who deploys.
var ErrInvalid = errors.New("invalid function")

// handlerFile is the file that makes a folder a function.
const handlerFile = "app.py"

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
}

// Check reads the whole zip and unpacks nothing. checkHandler is given the
// bytes of app.py (handler.Host.Check). Errors: ErrInvalid, ctx's, those of zip
// and of checkHandler.
func Check(ctx context.Context, zip io.ReaderAt, size int64, r Rules, checkHandler func(ctx context.Context, source []byte) error) (*Layout, error) {
	p, err := open(zip, size, r)
	if err != nil {
		return nil, err
	}
	source, err := p.source()
	if err != nil {
		return nil, err
	}
	if err := checkHandler(ctx, source); err != nil {
		return nil, err
	}
	return p.each(ctx, func(*entry) (io.WriteCloser, error) { return discard{}, nil })
}

// Unpack unpacks the zip into dir, which must exist, be empty, and belong to
// the runtime alone (mode 0700): files and folders below it get modes that let
// a jail's own user change its private view of them. On error dir holds the beginning; the
// caller removes it.
func Unpack(ctx context.Context, zip io.ReaderAt, size int64, r Rules, dir string) (*Layout, error) {
	p, err := open(zip, size, r)
	if err != nil {
		return nil, err
	}
	root, err := os.OpenRoot(dir)
	if err != nil {
		return nil, err
	}
	defer root.Close()
	for _, folder := range p.folders {
		if err := root.Mkdir(folder, 0o700); err != nil {
			return nil, err
		}
		if err := root.Chmod(folder, 0o777); err != nil {
			return nil, err
		}
	}
	return p.each(ctx, func(e *entry) (io.WriteCloser, error) {
		f, err := root.OpenFile(e.name, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
		if err != nil {
			return nil, err
		}
		return f, f.Chmod(0o666)
	})
}

type discard struct{}

func (discard) Write(b []byte) (int, error) { return len(b), nil }
func (discard) Close() error                { return nil }

// each streams every file to what sink opens for it, counting what really comes.
func (p *plan) each(ctx context.Context, sink func(*entry) (io.WriteCloser, error)) (*Layout, error) {
	layout := &Layout{Work: p.work, Files: len(p.files)}
	buf := make([]byte, 64<<10)
	for _, e := range p.files {
		if err := ctx.Err(); err != nil {
			return nil, err
		}
		w, err := sink(e)
		if err != nil {
			return nil, err
		}
		n, err := p.copy(ctx, w, e, int64(p.rules.Limits.Tree)-layout.Bytes, buf)
		if err = errors.Join(err, w.Close()); err != nil {
			return nil, err
		}
		layout.Bytes += n
	}
	return layout, nil
}

// copy streams one file, at most left bytes, and looks at its first bytes.
func (p *plan) copy(ctx context.Context, w io.Writer, e *entry, left int64, buf []byte) (int64, error) {
	r, err := e.file.Open()
	if err != nil {
		return 0, refuse(e.name, err)
	}
	defer r.Close()
	var total int64
	for {
		n, err := io.ReadFull(r, buf)
		if total == 0 {
			if err := p.rules.checkBinary(e.name, buf[:n]); err != nil {
				return 0, err
			}
		}
		total += int64(n)
		if total > left {
			return 0, fmt.Errorf("%w: it unpacks to more than %d bytes", ErrInvalid, p.rules.Limits.Tree)
		}
		if _, werr := w.Write(buf[:n]); werr != nil {
			return 0, werr
		}
		switch {
		case err == io.EOF || err == io.ErrUnexpectedEOF && total == int64(e.file.UncompressedSize64):
			return total, nil
		case err != nil:
			return 0, refuse(e.name, err)
		}
		if err := ctx.Err(); err != nil {
			return 0, err
		}
	}
}

// source returns app.py.
func (p *plan) source() ([]byte, error) {
	if p.handler.file.UncompressedSize64 > wire.MaxHandlerSource {
		return nil, fmt.Errorf("%w: %s is larger than %d bytes", ErrInvalid, p.handler.name, wire.MaxHandlerSource)
	}
	r, err := p.handler.file.Open()
	if err != nil {
		return nil, refuse(p.handler.name, err)
	}
	defer r.Close()
	b, err := io.ReadAll(io.LimitReader(r, wire.MaxHandlerSource+1))
	if err != nil {
		return nil, refuse(p.handler.name, err)
	}
	if len(b) > wire.MaxHandlerSource {
		return nil, fmt.Errorf("%w: %s is larger than %d bytes", ErrInvalid, p.handler.name, wire.MaxHandlerSource)
	}
	return b, nil
}

// refuse turns what the zip reader says of one entry into a refusal. Errors of
// the underlying reader are not the zip's fault and pass.
func refuse(name string, err error) error {
	var io *readError
	switch {
	case errors.As(err, &io):
		return io.err
	case errors.Is(err, zip.ErrChecksum):
		return fmt.Errorf("%w: %q is damaged: its checksum does not match", ErrInvalid, name)
	case errors.Is(err, zip.ErrAlgorithm):
		return fmt.Errorf("%w: %q is packed by a method other than Deflate or none", ErrInvalid, name)
	}
	return fmt.Errorf("%w: %q is damaged", ErrInvalid, name)
}

// top returns the first element of a clean path and whether there is more.
func top(name string) (string, bool) {
	dir, _ := path.Split(name)
	if dir == "" {
		return name, false
	}
	for path.Dir(name) != "." {
		name = path.Dir(name)
	}
	return name, true
}
