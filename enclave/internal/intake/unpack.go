package intake

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path"
)

// Modes below the folder that Unpack fills. A jail shows a private, writable
// layer over the tree to a user of its own, and the kernel asks for the modes
// below: for the function's files to be writable there, they must be writable here, to
// whom the folder itself lets pass, which is the runtime alone.
const (
	modeFolder = 0o777
	modeFile   = 0o666
)

// Unpack unpacks the zip into dir, which must exist, be empty, and belong to
// the runtime alone (mode 0700). Nothing in it will be executable. On error dir
// holds the beginning; the caller removes it. admit is asked for Layout.Room before anything
// is written. Errors: ErrInvalid, ctx's, admit's, those of zip and of the file system.
func Unpack(ctx context.Context, zip io.ReaderAt, size int64, r Rules, dir string, admit func(room int64) error) (*Layout, error) {
	root, err := os.OpenRoot(dir)
	if err != nil {
		return nil, fmt.Errorf("unpacking a function: %w", err)
	}
	defer root.Close()
	info, err := root.Stat(".")
	if err != nil {
		return nil, fmt.Errorf("unpacking a function: %w", err)
	}
	if info.Mode().Perm()&0o077 != 0 {
		return nil, fmt.Errorf("unpacking a function: %w: others may enter %s", os.ErrPermission, dir)
	}
	made := map[string]bool{".": true}
	buf := make([]byte, 128<<10)
	return read(ctx, zip, size, r, admit, func(_ *Layout, e *entry, content io.Reader) error {
		if err := makeFolder(root, path.Dir(e.name), made); err != nil {
			return fmt.Errorf("unpacking a function: %w", err)
		}
		return writeFile(root, e.name, content, buf)
	})
}

// makeFolder makes a folder and those above it.
func makeFolder(root *os.Root, name string, made map[string]bool) error {
	if made[name] {
		return nil
	}
	if err := makeFolder(root, path.Dir(name), made); err != nil {
		return err
	}
	made[name] = true
	return errors.Join(root.Mkdir(name, 0o700), root.Chmod(name, modeFolder))
}

// writeFile keeps apart errors of the zip, which are content's own, and of the
// file system.
func writeFile(root *os.Root, name string, content io.Reader, buf []byte) error {
	f, err := root.OpenFile(name, os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o600)
	if err != nil {
		return fmt.Errorf("unpacking a function: %w", err)
	}
	_, err = io.CopyBuffer(struct{ io.Writer }{f}, content, buf)
	if err = errors.Join(err, f.Chmod(modeFile), f.Close()); err != nil {
		return fmt.Errorf("unpacking %s: %w", name, err)
	}
	return nil
}
