package funczip

import (
	"archive/zip"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"slices"
	"strings"
	"unicode"

	"github.com/cape-functions/cape/core/wire"
)

// Sentinels.
var (
	// ErrEmpty: the folder holds no file.
	ErrEmpty = errors.New("deploy folder holds no file")
	// ErrTooLarge: more files or bytes than allowed.
	ErrTooLarge = errors.New("deploy folder is too large")
	// ErrLink: a symbolic link leads out of the folder, to a folder, or nowhere.
	ErrLink = errors.New("symbolic link is not to a file within the deploy folder")
	// ErrIrregular: a device, pipe or socket.
	ErrIrregular = errors.New("not a regular file")
	// ErrName: a name that cannot stand in a function's zip.
	ErrName = errors.New("name cannot stand in a function's zip")
)

// Bounds of a path in the zip, top folder included: what file systems take.
const (
	maxElement = 255 // bytes of one name
	maxDepth   = 64  // names of one path
)

// Options bound and watch a Write. The zero value has wire's limits.
type Options struct {
	MaxBytes int64 // of all files together; 0 is wire.MaxFunctionZip
	MaxFiles int   // 0 is wire.MaxFunctionFiles
	// Progress, if set, is told after every piece how many uncompressed bytes
	// were read so far. Its error ends the Write: a context's, for example.
	Progress func(done int64) error
}

func (o Options) withDefaults() Options {
	if o.MaxBytes == 0 {
		o.MaxBytes = wire.MaxFunctionZip
	}
	if o.MaxFiles == 0 {
		o.MaxFiles = wire.MaxFunctionFiles
	}
	if o.Progress == nil {
		o.Progress = func(int64) error { return nil }
	}
	return o
}

// Size is what a folder holds, and what a Write made of it.
type Size struct {
	Files int   // entries
	Plain int64 // bytes of all files
	Zip   int64 // bytes written; 0 after Scan
}

// Scan checks all that Write would refuse without reading a file, and tells
// how much there is to read: for a progress bar, and to fail before a session
// is opened. Errors: as of Write.
func Scan(fsys fs.FS, top string, opts Options) (Size, error) {
	opts = opts.withDefaults()
	var size Size
	err := walk(fsys, top, opts, func(_, file string) error {
		info, err := fs.Stat(fsys, file)
		if err != nil {
			return err
		}
		size.Files++
		size.Plain += info.Size()
		if size.Plain > opts.MaxBytes {
			return tooManyBytes(opts)
		}
		return nil
	})
	return size, err
}

// Write packs all regular files of fsys, hidden ones included, under the
// folder top, in lexical order, and streams the zip to w in constant memory.
// Links to files within fsys are followed: only an fs.ReadLinkFS, such as that
// of os.Root, may hold any. The Size counts what was done, also after an
// error; then w holds no usable zip. Errors: the sentinels, and those of fsys,
// w and Progress.
func Write(w io.Writer, fsys fs.FS, top string, opts Options) (Size, error) {
	opts = opts.withDefaults()
	out := &counter{w: w}
	p := &packer{fsys: fsys, zip: zip.NewWriter(out), opts: opts, buf: make([]byte, 64<<10)}
	err := walk(fsys, top, opts, p.add)
	if err == nil {
		err = p.zip.Close()
	}
	p.size.Zip = out.n
	if err != nil {
		return p.size, fmt.Errorf("packing deploy folder: %w", err)
	}
	return p.size, nil
}

// walk calls add with the zip's name and the file's name of every entry, in
// lexical order.
func walk(fsys fs.FS, top string, opts Options, add func(entry, file string) error) error {
	if strings.Contains(top, "/") || !validName(top) {
		return fmt.Errorf("%w: top folder %q", ErrName, top)
	}
	files := 0
	err := fs.WalkDir(fsys, ".", func(name string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		entry := top + "/" + name
		if !validName(entry) {
			return fmt.Errorf("%w: %q", ErrName, entry)
		}
		file, err := regular(fsys, name, d.Type())
		if err != nil {
			return err
		}
		if files++; files > opts.MaxFiles {
			return fmt.Errorf("%w: more than %d files", ErrTooLarge, opts.MaxFiles)
		}
		if err := add(entry, file); err != nil {
			return fmt.Errorf("%q: %w", entry, err)
		}
		return nil
	})
	if err == nil && files == 0 {
		return ErrEmpty
	}
	return err
}

// validName tells whether the enclave would take name: a clean slash path of
// UTF-8 (which fs.ValidPath checks), within bounds, no backslash, no control
// character.
func validName(name string) bool {
	if !fs.ValidPath(name) || name == "." || len(name) > wire.MaxPathBytes {
		return false
	}
	elements := strings.Split(name, "/")
	return len(elements) <= maxDepth &&
		!slices.ContainsFunc(elements, func(e string) bool { return len(e) > maxElement }) &&
		!strings.ContainsFunc(name, func(r rune) bool { return r == '\\' || unicode.IsControl(r) })
}

// regular returns the name under which the content of an entry lies.
func regular(fsys fs.FS, name string, mode fs.FileMode) (string, error) {
	switch {
	case mode.IsRegular():
		return name, nil
	case mode&fs.ModeSymlink != 0:
		return resolve(fsys, name)
	}
	return "", fmt.Errorf("%w: %q is %s", ErrIrregular, name, mode)
}

func tooManyBytes(opts Options) error {
	return fmt.Errorf("%w: more than %d bytes", ErrTooLarge, opts.MaxBytes)
}

type packer struct {
	fsys fs.FS
	zip  *zip.Writer
	opts Options
	buf  []byte
	size Size
}

func (p *packer) add(entry, file string) error {
	f, err := p.fsys.Open(file)
	if err != nil {
		return err
	}
	defer f.Close()
	// The folder may have changed since it was listed.
	if info, err := f.Stat(); err != nil {
		return err
	} else if !info.Mode().IsRegular() {
		return ErrIrregular
	}
	// Create sets Deflate, and neither time nor mode.
	dst, err := p.zip.Create(entry)
	if err != nil {
		return err
	}
	p.size.Files++
	return p.copy(dst, f)
}

func (p *packer) copy(dst io.Writer, src io.Reader) error {
	for {
		n, err := src.Read(p.buf)
		p.size.Plain += int64(n)
		if p.size.Plain > p.opts.MaxBytes {
			return tooManyBytes(p.opts)
		}
		if _, err := dst.Write(p.buf[:n]); err != nil {
			return err
		}
		if err := p.opts.Progress(p.size.Plain); err != nil {
			return err
		}
		if err == io.EOF {
			return nil
		}
		if err != nil {
			return err
		}
	}
}

type counter struct {
	w io.Writer
	n int64
}

func (c *counter) Write(p []byte) (int, error) {
	n, err := c.w.Write(p)
	c.n += int64(n)
	return n, err
}
