package rootfs

import (
	"archive/tar"
	"bytes"
	"context"
	"fmt"
	"io"
	"maps"
	"path"
	"slices"
	"strings"

	"github.com/cape-functions/cape/image/internal/cpio"
	"github.com/cape-functions/cape/image/internal/debian"
	"github.com/cape-functions/cape/image/internal/lock"
)

// Python is the version of the interpreter in the image.
const Python = "3.11"

// Packages of Debian that the base is made of. What they depend on beyond that is for people at a terminal and for
// maintainers' scripts, none of which run.
var Packages = []string{"ca-certificates", "libbz2-1.0", "libc6", "libexpat1", "libffi8", "libgcc-s1", "liblzma5", "libpython3.11-minimal",
	"libpython3.11-stdlib", "libsqlite3-0", "libssl3", "libstdc++6", "libuuid1", "python3.11-minimal", "zlib1g"}

const (
	stdlib       = "usr/lib/python" + Python + "/"
	libraries    = "usr/lib/x86_64-linux-gnu/"
	certificates = "usr/share/ca-certificates/mozilla/"
	bundle       = "etc/ssl/certs/ca-certificates.crt"
	ours         = "cape" // owner of what no package has
)

// dropped is what the standard library has for people at a terminal, for building Python itself, and for its tests. A star
// stands for any ending.
var dropped = []string{"EXTERNALLY-MANAGED", "LICENSE.txt", "__phello__", "_distutils_system_mod.py", "antigravity.py", "curses", "distutils",
	"pydoc_data", "sitecustomize.py", "test", "this.py", "turtle.py", "venv",
	"lib-dynload/_crypt.*", "lib-dynload/_ctypes_test.*", "lib-dynload/_curses*", "lib-dynload/_dbm.*", "lib-dynload/_test*",
	"lib-dynload/_xxtestfuzz.*", "lib-dynload/nis.*", "lib-dynload/ossaudiodev.*", "lib-dynload/readline.*", "lib-dynload/xxlimited*"}

// droppedLibraries are those of the C library's that serve debuggers and name services.
var droppedLibraries = []string{"libBrokenLocale.*", "libanl.*", "libc_malloc_debug.*", "libmemusage.*", "libnsl.*", "libnss_*", "libpcprofile.*",
	"libthread_db.*"}

func matches(name string, patterns []string) bool {
	return slices.ContainsFunc(patterns, func(p string) bool {
		if start, ok := strings.CutSuffix(p, "*"); ok {
			return strings.HasPrefix(name, start)
		}
		return name == p || strings.HasPrefix(name, p+"/")
	})
}

// keep says whether a file of a package belongs into the base. name has /usr in front already.
func keep(name string) bool {
	switch {
	case name == "usr/bin/python"+Python, strings.HasPrefix(name, "usr/lib64/ld-linux"):
		return true
	case strings.HasPrefix(name, libraries):
		rest := name[len(libraries):]
		return strings.Contains(rest, ".so") && !strings.Contains(rest, "/") && !matches(rest, droppedLibraries)
	case strings.HasPrefix(name, stdlib):
		return !matches(name[len(stdlib):], dropped)
	}
	return false
}

// merged is where a file lies in the image: /bin, /lib and the like are links into /usr.
func merged(name string) string {
	first, _, _ := strings.Cut(name, "/")
	if slices.Contains(topLinks, first) {
		return "usr/" + name
	}
	return name
}

var topLinks = []string{"bin", "lib", "lib64", "sbin"}

// Base makes the base out of packages that lie in debs. Python's modules are compiled later, by Compile.
func Base(ctx context.Context, debs string, packages []lock.Package) (*Tree, error) {
	t := newTree()
	roots := map[string][]byte{}
	for _, p := range packages {
		err := debian.Walk(ctx, debian.File(debs, p), func(h *tar.Header, r io.Reader) error {
			if strings.HasPrefix(h.Name, certificates) && h.Typeflag == tar.TypeReg {
				data, err := io.ReadAll(r)
				roots[h.Name] = data
				return err
			}
			if name := merged(h.Name); keep(name) {
				return t.addTar(p.Name, name, h, r)
			}
			return nil
		})
		if err != nil {
			return nil, err
		}
	}
	if err := t.addBundle(roots); err != nil {
		return nil, err
	}
	return t, t.addSystem()
}

func (t *Tree) addTar(owner, name string, h *tar.Header, r io.Reader) error {
	e := cpio.Entry{Name: name}
	switch h.Typeflag {
	case tar.TypeDir:
		return nil // made as needed
	case tar.TypeSymlink:
		e.Mode, e.Data = cpio.Symlink|0o777, []byte(h.Linkname)
	case tar.TypeReg:
		e.Mode = cpio.Regular | 0o644
		if h.Mode&0o111 != 0 {
			e.Mode = cpio.Regular | 0o755
		}
		data, err := io.ReadAll(r)
		if err != nil {
			return err
		}
		e.Data = data
	default:
		return fmt.Errorf("%w: %s of %s is neither file nor link", ErrTree, name, owner)
	}
	return t.add(owner, e)
}

// minRoots is what a set of certificates has at least; Mozilla's has had more than 100 for years.
const minRoots = 80

// addBundle writes all certificates into the one file in which Go and OpenSSL look for them.
func (t *Tree) addBundle(roots map[string][]byte) error {
	if len(roots) < minRoots {
		return fmt.Errorf("%w: only %d certificates", ErrTree, len(roots))
	}
	var all bytes.Buffer
	names := make([]string, 0, len(roots))
	for name := range roots {
		names = append(names, name)
	}
	slices.Sort(names)
	for _, name := range names {
		all.Write(bytes.TrimSpace(roots[name]))
		all.WriteByte('\n')
	}
	return t.add("ca-certificates", cpio.Entry{Name: bundle, Mode: cpio.Regular | 0o644, Data: all.Bytes()})
}

// addSystem adds what no package has: directories to mount on, links, the console, names of users.
func (t *Tree) addSystem() error {
	entries := []cpio.Entry{
		{Name: "dev/console", Mode: cpio.Char | 0o600, Major: 5, Minor: 1},
		{Name: "dev/null", Mode: cpio.Char | 0o666, Major: 1, Minor: 3},
		{Name: "usr/bin/python3", Mode: cpio.Symlink | 0o777, Data: []byte("python" + Python)},
		{Name: "etc/passwd", Mode: cpio.Regular | 0o644, Data: []byte("root:x:0:0:root:/:/nonexistent\n")},
		{Name: "etc/group", Mode: cpio.Regular | 0o644, Data: []byte("root:x:0:\n")},
		{Name: "etc/hosts", Mode: cpio.Regular | 0o644, Data: []byte("127.0.0.1 localhost\n")},
		{Name: "tmp", Mode: cpio.Dir | 0o1777},
		{Name: "scratch", Mode: cpio.Dir | 0o700},
	}
	for _, dir := range []string{"dev", "etc", "proc", "run", "sys", "usr/bin", "usr/sbin", "usr/lib", "usr/lib64"} {
		entries = append(entries, cpio.Entry{Name: dir, Mode: cpio.Dir | 0o755})
	}
	for _, link := range topLinks {
		entries = append(entries, cpio.Entry{Name: link, Mode: cpio.Symlink | 0o777, Data: []byte(path.Join("usr", link))})
	}
	for _, e := range entries {
		if err := t.add(ours, e); err != nil {
			return err
		}
	}
	return nil
}

// workerFolder is where the runtimes look for the files that they run in Python.
const workerFolder = "usr/lib/cape/"

// Worker makes the tree of the files that the runtimes run in Python, by name. The base compiles them.
func Worker(files map[string][]byte) (*Tree, error) {
	t := newTree()
	for name, data := range files {
		if err := t.add(ours, cpio.Entry{Name: workerFolder + name, Mode: cpio.Regular | 0o644, Data: data}); err != nil {
			return nil, err
		}
	}
	return t, nil
}

// Ours makes the second tree: the runtime, which is the first process, and its worker's files.
func Ours(runtime []byte, worker *Tree) (*Tree, error) {
	t := &Tree{files: maps.Clone(worker.files), owner: maps.Clone(worker.owner)}
	return t, t.add(ours, cpio.Entry{Name: "init", Mode: cpio.Regular | 0o755, Data: runtime})
}
