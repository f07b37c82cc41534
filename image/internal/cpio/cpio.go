// Package cpio writes archives of the "newc" form, which the kernel unpacks into its first file system
// (Documentation/driver-api/early-userspace/buffer-format.rst in its source). Times are 0, owners are root, numbers count
// from 1: the same entries in the same order are the same bytes.
package cpio

import (
	"errors"
	"fmt"
	"io"
	"strings"
)

// Kinds of files: the type bits of a mode.
const (
	Dir     = 0o040000
	Regular = 0o100000
	Symlink = 0o120000
	Char    = 0o020000
)

const (
	maxName = 4095    // PATH_MAX of the kernel that reads it, less the zero
	maxFile = 1 << 30 // the kernel reads sizes into 32 bits; ours are far smaller
	trailer = "TRAILER!!!"
	padding = 512 // of the whole archive, so that another one may follow it
)

// ErrEntry: an entry cannot be written.
var ErrEntry = errors.New("cannot stand in an archive")

// Entry is one file. Name is relative, with slashes and without a leading one.
type Entry struct {
	Name         string
	Mode         uint32 // kind and permissions
	Data         []byte // content, or the target of a symlink
	Major, Minor uint32 // of a device
}

// Writer writes entries. Directories must come before what is in them, as the kernel makes none by itself.
type Writer struct {
	w      io.Writer
	n      int64
	number uint32
	made   map[string]bool
}

// NewWriter returns a Writer to w.
func NewWriter(w io.Writer) *Writer { return &Writer{w: w, made: map[string]bool{}} }

// Add writes one entry. Errors: ErrEntry, those of the underlying writer.
func (w *Writer) Add(e Entry) error {
	if err := w.check(e); err != nil {
		return fmt.Errorf("%q: %w: %w", e.Name, ErrEntry, err)
	}
	w.number++
	w.made[e.Name] = e.Mode&^0o7777 == Dir
	return w.write(e, w.number)
}

func (w *Writer) check(e Entry) error {
	kind := e.Mode &^ 0o7777
	switch {
	case e.Name == "" || e.Name == trailer || len(e.Name) > maxName || strings.ContainsRune(e.Name, 0):
		return errors.New("a name that is none")
	case len(e.Data) > maxFile:
		return errors.New("too large")
	case kind != Dir && kind != Regular && kind != Symlink && kind != Char:
		return fmt.Errorf("kind %o", kind)
	case (kind == Dir || kind == Char) && len(e.Data) > 0:
		return errors.New("content where none can be")
	}
	if _, twice := w.made[e.Name]; twice {
		return errors.New("a second time")
	}
	parts := strings.Split(e.Name, "/")
	for i, p := range parts {
		if p == "" || p == "." || p == ".." {
			return errors.New("a path that is not plain")
		}
		if above := strings.Join(parts[:i], "/"); above != "" && !w.made[above] {
			return fmt.Errorf("%s is no directory yet", above)
		}
	}
	return nil
}

func (w *Writer) write(e Entry, number uint32) error {
	links := 1
	if e.Mode&^0o7777 == Dir {
		links = 2
	}
	header := fmt.Sprintf("070701%08x%08x%08x%08x%08x%08x%08x%08x%08x%08x%08x%08x%08x", number, e.Mode, 0, 0, links, 0, len(e.Data),
		0, 0, e.Major, e.Minor, len(e.Name)+1, 0)
	if err := w.put([]byte(header+e.Name+"\x00"), 4); err != nil {
		return err
	}
	return w.put(e.Data, 4)
}

// put writes bytes and fills up with zeros to a multiple of align.
func (w *Writer) put(b []byte, align int64) error {
	n, err := w.w.Write(b)
	w.n += int64(n)
	if err != nil {
		return err
	}
	n, err = w.w.Write(make([]byte, (align-w.n%align)%align))
	w.n += int64(n)
	return err
}

// Close ends the archive. It does not close the underlying writer.
func (w *Writer) Close() error {
	if err := w.write(Entry{Name: trailer}, 0); err != nil {
		return err
	}
	return w.put(nil, padding)
}
