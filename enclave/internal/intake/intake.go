package intake

import (
	"context"
	"errors"
	"io"

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
}

// Check reads the whole zip and unpacks nothing. checkHandler is given the
// bytes of app.py (handler.Host.Check). Errors: ErrInvalid, ctx's, those of zip
// and of checkHandler.
func Check(ctx context.Context, zip io.ReaderAt, size int64, r Rules, checkHandler func(ctx context.Context, source []byte) error) (*Layout, error) {
	return nil, ErrInvalid
}

// Unpack unpacks the zip into dir, which must exist, be empty, and belong to
// the runtime alone (mode 0700): files and folders below it get modes that let
// a jail's own user change its private view of them. On error dir holds the beginning; the
// caller removes it.
func Unpack(ctx context.Context, zip io.ReaderAt, size int64, r Rules, dir string) (*Layout, error) {
	return nil, ErrInvalid
}
