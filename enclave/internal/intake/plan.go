package intake

import (
	"archive/zip"
	"errors"
	"fmt"
	"io"
	"path"
	"sort"
	"strings"
	"unicode"
	"unicode/utf8"

	"github.com/cape-functions/cape/core/wire"
)

// Limits of a zip's structure.
const (
	maxDirectory = 48 << 20 // bytes read while the central directory is parsed
	maxDepth     = 64       // folders above a file
	maxElement   = 255      // bytes of one path element
)

// entry is one file of the zip.
type entry struct {
	name string // clean, relative
	file *zip.File
}

// plan is a zip whose structure was accepted.
type plan struct {
	rules   Rules
	files   []*entry
	folders []string // parents first
	handler *entry
	work    string
	exact   map[string]bool // folders as they are spelled
}

// readError marks errors of the reader below the zip reader.
type readError struct{ err error }

func (e *readError) Error() string { return e.err.Error() }

// bounded refuses to read more than a number of bytes while left is not
// negative: a directory of a gigabyte would become several in memory.
type bounded struct {
	r    io.ReaderAt
	left int64
	on   bool
}

var errDirectory = errors.New("central directory is too large")

func (b *bounded) ReadAt(p []byte, off int64) (int, error) {
	if b.on {
		if b.left -= int64(len(p)); b.left < 0 {
			return 0, errDirectory
		}
	}
	n, err := b.r.ReadAt(p, off)
	if err != nil && !errors.Is(err, io.EOF) {
		err = &readError{err}
	}
	return n, err
}

// open parses the zip's directory and checks everything that can be known
// before data is read.
func open(r io.ReaderAt, size int64, rules Rules) (*plan, error) {
	if size <= 0 || uint64(size) > rules.Limits.Zip {
		return nil, fmt.Errorf("%w: the zip has %d bytes, at most %d are allowed", ErrInvalid, size, rules.Limits.Zip)
	}
	b := &bounded{r: r, left: maxDirectory, on: true}
	z, err := zip.NewReader(b, size)
	b.on = false
	var below *readError
	switch {
	case errors.As(err, &below):
		return nil, below.err
	case errors.Is(err, errDirectory):
		return nil, fmt.Errorf("%w: the zip lists too many files", ErrInvalid)
	case err != nil && !errors.Is(err, zip.ErrInsecurePath):
		return nil, fmt.Errorf("%w: not a zip file", ErrInvalid)
	}
	if len(z.File) > wire.MaxFunctionFiles {
		return nil, fmt.Errorf("%w: %d files, at most %d are allowed", ErrInvalid, len(z.File), wire.MaxFunctionFiles)
	}
	p := &plan{rules: rules, exact: map[string]bool{}}
	if err := p.read(z.File); err != nil {
		return nil, err
	}
	if err := overlaps(p.files, size); err != nil {
		return nil, err
	}
	return p, p.findHandler()
}

// read checks every entry's header and name.
func (p *plan) read(files []*zip.File) error {
	names := map[string]bool{} // folded name to "is a folder"
	var total uint64
	for _, f := range files {
		name, folder, err := checkEntry(f)
		if err != nil {
			return err
		}
		if err := p.parents(name, names); err != nil {
			return err
		}
		if folder {
			if err := p.folder(name, names); err != nil {
				return err
			}
			continue
		}
		key := fold(name)
		if _, twice := names[key]; twice {
			return fmt.Errorf("%w: %q stands in the zip twice, or differs from another name by case alone", ErrInvalid, name)
		}
		names[key] = false
		if total += f.UncompressedSize64; f.UncompressedSize64 > p.rules.Limits.Tree || total > p.rules.Limits.Tree {
			return fmt.Errorf("%w: it unpacks to more than %d bytes", ErrInvalid, p.rules.Limits.Tree)
		}
		p.files = append(p.files, &entry{name, f})
	}
	if len(p.files) == 0 {
		return fmt.Errorf("%w: the zip is empty", ErrInvalid)
	}
	return nil
}

func fold(name string) string { return strings.ToLower(name) }

// parents records the folders above name.
func (p *plan) parents(name string, names map[string]bool) error {
	for i, c := range name {
		if c == '/' {
			if err := p.folder(name[:i], names); err != nil {
				return err
			}
		}
	}
	return nil
}

func (p *plan) folder(name string, names map[string]bool) error {
	folder, known := names[fold(name)]
	switch {
	case known && !folder:
		return fmt.Errorf("%w: %q is a file and a folder", ErrInvalid, name)
	case known:
		if !p.exact[name] {
			return fmt.Errorf("%w: folder %q differs from another by case alone", ErrInvalid, name)
		}
		return nil
	}
	names[fold(name)] = true
	p.exact[name] = true
	p.folders = append(p.folders, name)
	if len(p.folders) > wire.MaxFunctionFiles {
		return fmt.Errorf("%w: more than %d folders", ErrInvalid, wire.MaxFunctionFiles)
	}
	return nil
}

// checkEntry checks one header alone and returns the entry's clean name.
func checkEntry(f *zip.File) (name string, folder bool, err error) {
	name, folder = strings.CutSuffix(f.Name, "/")
	if err := checkName(name); err != nil {
		return "", false, err
	}
	switch mode := f.Mode(); {
	case f.Flags&1 != 0:
		return "", false, fmt.Errorf("%w: %q is encrypted", ErrInvalid, name)
	case f.Method != zip.Store && f.Method != zip.Deflate:
		return "", false, fmt.Errorf("%w: %q is packed by a method other than Deflate or none", ErrInvalid, name)
	case folder && !mode.IsDir(), !folder && !mode.IsRegular():
		return "", false, fmt.Errorf("%w: %q is neither a plain file nor a folder; links and devices cannot be deployed", ErrInvalid, name)
	case folder && f.UncompressedSize64 != 0:
		return "", false, fmt.Errorf("%w: folder %q holds data", ErrInvalid, name)
	}
	return name, folder, nil
}

// checkName accepts relative slash-separated paths that mean one thing everywhere.
func checkName(name string) error {
	bad := func(why string) error { return fmt.Errorf("%w: the path %q %s", ErrInvalid, name, why) }
	switch {
	case name == "":
		return bad("is empty")
	case len(name) > wire.MaxPathBytes:
		return fmt.Errorf("%w: a path is longer than %d bytes", ErrInvalid, wire.MaxPathBytes)
	case !utf8.ValidString(name):
		return bad("is not UTF-8")
	case strings.HasPrefix(name, "/"):
		return bad("is absolute")
	case strings.ContainsRune(name, '\\'):
		return bad("holds a backslash")
	case strings.ContainsFunc(name, unicode.IsControl):
		return bad("holds a control character")
	case path.Clean(name) != name || name == "." || name == ".." || strings.HasPrefix(name, "../"):
		return bad("leaves its folder or is not in its shortest form")
	case strings.Count(name, "/") > maxDepth:
		return bad("is nested too deeply")
	}
	for element := range strings.SplitSeq(name, "/") {
		if len(element) > maxElement {
			return bad("holds a name that is too long")
		}
	}
	return nil
}

// overlaps refuses entries that share bytes of the zip: a bomb needs no other trick.
func overlaps(files []*entry, size int64) error {
	type span struct{ from, to int64 }
	spans := make([]span, 0, len(files))
	for _, e := range files {
		from, err := e.file.DataOffset()
		if err != nil {
			return refuse(e.name, err)
		}
		packed := e.file.CompressedSize64
		if packed > uint64(size) || from+int64(packed) > size {
			return fmt.Errorf("%w: %q reaches beyond the end of the zip", ErrInvalid, e.name)
		}
		spans = append(spans, span{from, from + int64(packed)})
	}
	sort.Slice(spans, func(i, j int) bool { return spans[i].from < spans[j].from })
	for i := 1; i < len(spans); i++ {
		if spans[i].from < spans[i-1].to {
			return fmt.Errorf("%w: files of the zip share data", ErrInvalid)
		}
	}
	return nil
}

// findHandler finds app.py at the root, or in the one top folder that has it.
func (p *plan) findHandler() error {
	for _, e := range p.files {
		folder, nested := top(e.name)
		switch {
		case e.name == handlerFile:
			p.handler, p.work = e, "."
			return nil
		case nested && e.name == folder+"/"+handlerFile && p.handler != nil:
			return fmt.Errorf("%w: both %q and %q hold an app.py; deploy one folder", ErrInvalid, p.work, folder)
		case nested && e.name == folder+"/"+handlerFile:
			p.handler, p.work = e, folder
		}
	}
	if p.handler == nil {
		return fmt.Errorf("%w: there is no app.py in the folder", ErrInvalid)
	}
	return nil
}
