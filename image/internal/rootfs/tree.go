// Package rootfs makes the two trees that the enclave's first file system is unpacked from: the base (Python, the C library,
// certificates) out of Debian's packages, and ours.
package rootfs

import (
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"maps"
	"path"
	"slices"
	"strings"

	"github.com/cape-functions/cape/image/internal/cpio"
)

// ErrTree: the files do not make a file system.
var ErrTree = errors.New("unusable file system")

// Tree is a file system in memory. The zero value is not ready: use newTree.
type Tree struct {
	files map[string]cpio.Entry
	owner map[string]string // which package a file is of
}

func newTree() *Tree { return &Tree{files: map[string]cpio.Entry{}, owner: map[string]string{}} }

// add puts a file into the tree, with the directories above it. A second file of the same name is an error.
func (t *Tree) add(owner string, e cpio.Entry) error {
	for above := path.Dir(e.Name); above != "."; above = path.Dir(above) {
		if f, there := t.files[above]; !there {
			t.files[above] = cpio.Entry{Name: above, Mode: cpio.Dir | 0o755}
		} else if f.Mode&^0o7777 != cpio.Dir {
			return fmt.Errorf("%w: %s lies below a file", ErrTree, e.Name)
		}
	}
	if old, twice := t.files[e.Name]; twice {
		if old.Mode&^0o7777 == cpio.Dir && e.Mode&^0o7777 == cpio.Dir {
			t.files[e.Name] = e
			return nil
		}
		return fmt.Errorf("%w: %s is in %s and in %s", ErrTree, e.Name, t.owner[e.Name], owner)
	}
	t.files[e.Name], t.owner[e.Name] = e, owner
	return nil
}

// names in the order in which they are written: every directory before what is in it.
func (t *Tree) names() []string { return slices.Sorted(maps.Keys(t.files)) }

// Write writes the tree as an archive.
func (t *Tree) Write(w io.Writer) error {
	c := cpio.NewWriter(w)
	for _, name := range t.names() {
		if err := c.Add(t.files[name]); err != nil {
			return err
		}
	}
	return c.Close()
}

// SHA256 is the digest of the archive, in hex.
func (t *Tree) SHA256() (string, error) {
	h := sha256.New()
	if err := t.Write(h); err != nil {
		return "", err
	}
	return hex.EncodeToString(h.Sum(nil)), nil
}

// Sizes is how many bytes of content each package has in the tree.
func (t *Tree) Sizes() map[string]int64 {
	sizes := map[string]int64{}
	for name, e := range t.files {
		sizes[t.owner[name]] += int64(len(e.Data))
	}
	delete(sizes, "") // directories
	return sizes
}

// lookup follows symlinks as a process in the file system would. It returns nil when there is no such file.
func (t *Tree) lookup(name string) *cpio.Entry {
	return t.follow(strings.Trim(path.Clean(name), "/"), 0)
}

const maxLinks = 40 // as the kernel has it

func (t *Tree) follow(name string, depth int) *cpio.Entry {
	if depth > maxLinks {
		return nil
	}
	parts := strings.Split(name, "/")
	for i := range parts {
		at := strings.Join(parts[:i+1], "/")
		e, ok := t.files[at]
		if !ok {
			return nil
		}
		if e.Mode&^0o7777 != cpio.Symlink {
			continue
		}
		target := string(e.Data)
		if !path.IsAbs(target) {
			target = path.Join(path.Dir(at), target)
		}
		rest := path.Join(append([]string{target}, parts[i+1:]...)...)
		return t.follow(strings.Trim(path.Clean(rest), "/"), depth+1)
	}
	e := t.files[name]
	return &e
}
