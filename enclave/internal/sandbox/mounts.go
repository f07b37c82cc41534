package sandbox

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
)

// view is what every jail sees of the machine: links in its root, and paths that it finds, read-only, where they are.
type view struct {
	links map[string]string
	show  []string
}

// newView is the view on the system's programs and libraries, and on the directories of more.
func newView(more []string) (*view, error) {
	v := &view{links: map[string]string{}}
	paths := []string{"/etc/alternatives"}
	for _, name := range []string{"usr", "bin", "sbin", "lib", "lib32", "lib64", "libx32"} {
		info, err := os.Lstat("/" + name)
		switch {
		case err != nil:
		case info.Mode()&os.ModeSymlink != 0:
			if v.links[name], err = os.Readlink("/" + name); err != nil {
				return nil, err
			}
		case info.IsDir():
			paths = append(paths, "/"+name)
		}
	}
	for _, p := range more {
		real, err := filepath.EvalSymlinks(p)
		if err != nil {
			return nil, fmt.Errorf("resolving a directory to show: %w", err)
		}
		paths = append(paths, real, v.through(filepath.Clean(p)))
	}
	v.show = outermost(paths)
	mountinfo, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		return nil, err
	}
	v.show = append(v.show, mountsBelow(string(mountinfo), v.show)...)
	return v, nil
}

// mountsBelow are the places below dirs where something is mounted: an overlay shows none of it.
func mountsBelow(mountinfo string, dirs []string) (places []string) {
	for line := range strings.Lines(mountinfo) {
		f := strings.Split(strings.TrimSuffix(line, "\n"), " ")
		if len(f) < 6 {
			continue
		}
		place := unescape(f[4])
		if slices.ContainsFunc(dirs, func(d string) bool { return strings.HasPrefix(place, d+"/") }) && !slices.Contains(places, place) {
			places = append(places, place)
		}
	}
	slices.Sort(places)
	return places
}

// through resolves the first element of an absolute path as the new root will: /lib/x is /usr/lib/x where /lib is a link.
func (v *view) through(p string) string {
	first, rest, _ := strings.Cut(strings.TrimPrefix(p, "/"), "/")
	if target, ok := v.links[first]; ok {
		return filepath.Join("/", target, rest)
	}
	return p
}

// check refuses to show what holds one of private, or lies where a jail has something of its own.
func (v *view) check(private ...string) error {
	below := func(path, dir string) bool { return dir == "/" || path == dir || strings.HasPrefix(path, dir+"/") }
	for _, p := range v.show {
		for _, own := range private {
			if below(own, p) {
				return fmt.Errorf("%w: %s cannot be shown to functions: it holds %s", ErrSetup, p, own)
			}
		}
		for _, taken := range []string{"/tmp", "/dev", "/function", "/etc/passwd", "/etc/group", "/etc/hosts"} {
			if below(p, taken) {
				return fmt.Errorf("%w: %s cannot be shown to functions: they have a %s of their own", ErrSetup, p, taken)
			}
		}
	}
	return nil
}

// outermost drops paths that lie below others.
func outermost(paths []string) []string {
	slices.Sort(paths)
	var out []string
	for _, p := range paths {
		covered := slices.ContainsFunc(out, func(q string) bool { return p == q || strings.HasPrefix(p, q+"/") })
		if !covered {
			out = append(out, p)
		}
	}
	return out
}

// treeSize returns what a copy of dir needs in a file system in memory.
func treeSize(dir string) (uint64, error) {
	var total uint64
	err := filepath.WalkDir(dir, func(_ string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		info, err := d.Info()
		if errors.Is(err, fs.ErrNotExist) {
			return nil
		}
		if err != nil {
			return err
		}
		total += 4096
		if info.Mode().IsRegular() {
			total += (uint64(info.Size()) + 4095) &^ 4095
		}
		return nil
	})
	return total, err
}
