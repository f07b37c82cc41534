package funczip

import (
	"fmt"
	"io/fs"
	"path"
	"strings"
)

// maxLinks is how many links one name may go through, as on Linux.
const maxLinks = 40

// resolve follows a symbolic link, element by element, to a regular file
// within fsys. Opening the link itself would leave it to fsys how far it may
// lead.
func resolve(fsys fs.FS, name string) (string, error) {
	if _, ok := fsys.(fs.ReadLinkFS); !ok {
		return "", fmt.Errorf("%w: %q: this file system cannot say where it leads", ErrLink, name)
	}
	at, rest, links := ".", strings.Split(name, "/"), 0
	mode := fs.ModeDir
	for len(rest) > 0 {
		element := rest[0]
		rest = rest[1:]
		switch {
		case element == "" || element == ".":
			continue
		case element == ".." && at == ".":
			return "", fmt.Errorf("%w: %q leads out of it", ErrLink, name)
		case element == "..":
			at, mode = path.Dir(at), fs.ModeDir
			continue
		}
		next := path.Join(at, element)
		info, err := fs.Lstat(fsys, next)
		if err != nil {
			return "", fmt.Errorf("%w: %q: %w", ErrLink, name, err)
		}
		if mode = info.Mode().Type(); mode&fs.ModeSymlink == 0 {
			at = next
			continue
		}
		if links++; links > maxLinks {
			return "", fmt.Errorf("%w: %q goes through more than %d links", ErrLink, name, maxLinks)
		}
		target, err := linkTarget(fsys, next)
		if err != nil {
			return "", fmt.Errorf("%w: %q: %w", ErrLink, name, err)
		}
		rest, mode = append(target, rest...), fs.ModeDir
	}
	switch {
	case mode.IsDir():
		return "", fmt.Errorf("%w: %q leads to a folder", ErrLink, name)
	case !mode.IsRegular():
		return "", fmt.Errorf("%w: %q leads to %s", ErrIrregular, name, mode)
	}
	return at, nil
}

func linkTarget(fsys fs.FS, name string) ([]string, error) {
	target, err := fs.ReadLink(fsys, name)
	if err != nil {
		return nil, err
	}
	// Windows answers with backslashes; a name that holds one is refused anyway.
	target = strings.ReplaceAll(target, `\`, "/")
	if path.IsAbs(target) {
		return nil, fmt.Errorf("%w: absolute", fs.ErrInvalid)
	}
	return strings.Split(target, "/"), nil
}
