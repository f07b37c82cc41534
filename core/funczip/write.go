package funczip

import (
	"errors"
	"io"
	"io/fs"
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
	ErrName = errors.New("file name cannot stand in a function's zip")
)

const (
	// MaxBytes is the most a deploy folder may hold, uncompressed.
	MaxBytes = 1_000_000_000
	// MaxFiles is the most files it may hold.
	MaxFiles = 100_000
)

// Options bound and watch a Write. The zero value has the limits above.
type Options struct {
	MaxBytes int64 // of all files together; 0 is MaxBytes
	MaxFiles int   // 0 is MaxFiles
	// Progress, if set, is told after every piece how many uncompressed bytes
	// were read so far. Its error ends the Write: a context's, for example.
	Progress func(done int64) error
}

// Size is what a Write packed.
type Size struct {
	Files int   // entries
	Plain int64 // bytes of all files
	Zip   int64 // bytes written
}

// Write packs all regular files of fsys, hidden ones included, under the
// folder top, in lexical order, and streams the zip to w. Links to files
// within fsys are followed: fsys must be an fs.ReadLinkFS to hold any. Errors:
// the sentinels, and those of fsys, w and Progress.
func Write(w io.Writer, fsys fs.FS, top string, opts Options) (Size, error) {
	return Size{}, ErrEmpty
}
