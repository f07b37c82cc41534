package intake

import (
	"path"
	"strings"
	"unicode"
	"unicode/utf8"

	"github.com/cape-functions/cape/core/wire"
)

// finderFolder is what macOS adds to zips; nothing of it is ever shown to a function.
const finderFolder = "__MACOSX"

const (
	// maxElement is the longest name most file systems take, in bytes.
	maxElement = 255
	// maxDepth bounds folders within folders.
	maxDepth = 64
)

// setName validates a path as it stands in the zip.
func (e *entry) setName(raw []byte) error {
	name := string(raw)
	switch {
	case !utf8.ValidString(name):
		return refuse("the name %q is not UTF-8", name)
	case strings.ContainsFunc(name, unicode.IsControl):
		return refuse("the name %q holds control characters", name)
	case strings.Contains(name, `\`):
		return refuse("the name %q holds a backslash; folders are divided by /", name)
	case strings.HasPrefix(name, "/"):
		return refuse("the name %q is an absolute path", name)
	}
	e.name, e.folder = strings.CutSuffix(name, "/")
	depth := 0
	for element := range strings.SplitSeq(e.name, "/") {
		depth++
		switch {
		case element == "" || element == "." || element == "..":
			return refuse("the name %q leads out of its folder, or around", name)
		case len(element) > maxElement:
			return refuse("the name %q has a part of more than %d bytes", name, maxElement)
		}
	}
	if depth > maxDepth {
		return refuse("the name %q lies more than %d folders deep", name, maxDepth)
	}
	return nil
}

// fold maps names to one that differ in case alone.
func fold(name string) string { return strings.ToLower(strings.ToUpper(name)) }

// inspect judges all entries together: what they claim to unpack to, names that
// collide, and where app.py is.
func inspect(entries []*entry, zip int64, r Rules) (*Layout, error) {
	l := &Layout{}
	folders := map[string]string{} // folded to written
	files := map[string]string{}
	for _, e := range entries {
		if !e.folder {
			if other, ok := files[fold(e.name)]; ok {
				return nil, refuse("the names %q and %q are the same, or differ in case alone", other, e.name)
			}
			files[fold(e.name)] = e.name
			l.Files++
			if l.Bytes += e.size; l.Bytes < 0 || uint64(l.Bytes) > r.Limits.Tree {
				return nil, refuse("the function unpacks to more than %d bytes", r.Limits.Tree)
			}
		}
		dir := e.name
		if !e.folder {
			dir = path.Dir(dir)
		}
		for ; dir != "."; dir = path.Dir(dir) {
			other, ok := folders[fold(dir)]
			if ok && other != dir {
				return nil, refuse("the folders %q and %q differ in case alone", other, dir)
			}
			if ok {
				break // and so are those above it
			}
			if folders[fold(dir)] = dir; len(folders) > wire.MaxFunctionFiles {
				return nil, refuse("the zip has more than %d folders", wire.MaxFunctionFiles)
			}
		}
	}
	for key, dir := range folders {
		if other, ok := files[key]; ok {
			return nil, refuse("%q is a folder, and %q a file", dir, other)
		}
	}
	if bomb(l.Bytes, zip) {
		return nil, refuse("the function unpacks to %d bytes, which is out of proportion to a zip of %d", l.Bytes, zip)
	}
	const page = 4096
	l.Room = l.Bytes + page*int64(l.Files+len(folders))
	return l, l.findHandler(entries, files)
}

// bomb says whether a zip grows more than honest files do. Small ones may.
func bomb(unpacked, zip int64) bool {
	const free, ratio = 64 << 20, 200
	return unpacked > free && unpacked/ratio > zip
}

// findHandler finds app.py: at the root, or in the one folder that holds all else.
func (l *Layout) findHandler(entries []*entry, files map[string]string) error {
	if files[handlerName] == handlerName {
		l.Work = "."
		return nil
	}
	for _, e := range entries {
		top, _, below := strings.Cut(e.name, "/")
		if top == finderFolder {
			continue
		}
		if !below && !e.folder {
			return refuse("the zip has no app.py beside %q: a function is a folder with app.py in it", e.name)
		}
		if l.Work == "" {
			l.Work = top
		}
		if top != l.Work {
			return refuse("the zip holds several folders (%q, %q) and no app.py beside them", l.Work, top)
		}
	}
	if l.Work == "" {
		return refuse("the zip is empty")
	}
	if files[fold(l.own(handlerName))] != l.own(handlerName) {
		return refuse("there is no app.py in the folder %q", l.Work)
	}
	return nil
}
