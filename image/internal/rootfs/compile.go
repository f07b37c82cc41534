package rootfs

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"github.com/cape-functions/cape/image/internal/cpio"
	"github.com/cape-functions/cape/image/internal/room"
)

// compile runs in the base itself: it imports what an interpreter without its shared objects could not import, then compiles
// every module. What it writes is believed without a look at the source ("unchecked"): no times stand in it.
const compile = `
import bz2, ctypes, decimal, hashlib, json, lzma, mmap, multiprocessing.synchronize, sqlite3, ssl, uuid, xml.etree.ElementTree, zlib, zoneinfo
import os, py_compile
def modules(top):
    return sorted(os.path.join(folder, f) for folder, folders, files in os.walk(top) for f in files if f.endswith(".py"))
for name in modules("/usr/lib/python` + Python + `") + modules("/` + workerFolder + `"):
    py_compile.compile(name, doraise=True, quiet=2, invalidation_mode=py_compile.PycInvalidationMode.UNCHECKED_HASH)
`

// Compile adds compiled modules to a base and to the worker's files, made by the base's own interpreter in a room below dir.
func (t *Tree) Compile(ctx context.Context, dir string, worker *Tree) error {
	root, err := os.MkdirTemp(dir, ".base-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(root)
	if err := errors.Join(t.unpack(root), worker.unpack(root)); err != nil {
		return err
	}
	if said, err := run(ctx, root, "-c", compile); err != nil {
		return fmt.Errorf("compiling Python's modules: %w\n%s", err, said)
	}
	answer, err := run(ctx, root, "-B", "/"+workerFolder+"question.py")
	if err != nil {
		return fmt.Errorf("asking Python where it lives: %w\n%s", err, answer)
	}
	err = worker.add(ours, cpio.Entry{Name: workerFolder + "answer", Mode: cpio.Regular | 0o644, Data: answer})
	return errors.Join(err, t.addCompiled(root, stdlib), worker.addCompiled(root, workerFolder))
}

// run runs the base's interpreter in it.
func run(ctx context.Context, root string, args ...string) ([]byte, error) {
	var said bytes.Buffer
	err := room.Run(ctx, room.Command{
		Root: root, Args: append([]string{"/usr/bin/python3", "-I", "-S"}, args...), Output: &said,
		Env: []string{"LC_ALL=C.UTF-8", "TZ=UTC", "PYTHONHASHSEED=0"},
	})
	return said.Bytes(), err
}

// unpack writes the tree to a folder: files and links, no devices.
func (t *Tree) unpack(root string) error {
	for _, name := range t.names() {
		e, at := t.files[name], filepath.Join(root, name)
		var err error
		switch e.Mode &^ 0o7777 {
		case cpio.Dir:
			err = os.MkdirAll(at, 0o755)
		case cpio.Regular:
			err = os.WriteFile(at, e.Data, os.FileMode(e.Mode&0o755))
		case cpio.Symlink:
			err = os.Symlink(string(e.Data), at)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

func (t *Tree) addCompiled(root, folder string) error {
	count := 0
	err := filepath.WalkDir(filepath.Join(root, folder), func(at string, d fs.DirEntry, err error) error {
		if err != nil || !strings.HasSuffix(at, ".pyc") {
			return err
		}
		name, err := filepath.Rel(root, at)
		if err != nil {
			return err
		}
		data, err := os.ReadFile(at)
		if err != nil {
			return err
		}
		source := strings.TrimSuffix(strings.Replace(name, "__pycache__/", "", 1), ".cpython-"+strings.ReplaceAll(Python, ".", "")+".pyc") + ".py"
		if _, ok := t.files[source]; !ok {
			return fmt.Errorf("%w: %s was compiled from nothing", ErrTree, name)
		}
		count++
		return t.add(t.owner[source], cpio.Entry{Name: name, Mode: cpio.Regular | 0o644, Data: data})
	})
	if err == nil && count == 0 {
		err = errors.New("no module was compiled")
	}
	return err
}
