package funczip_test

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"runtime"
	"testing"
	"testing/fstest"

	"github.com/cape-functions/cape/core/funczip"
)

func TestLinks(t *testing.T) {
	plain := fstest.MapFS{
		"app.py": file("app"), "lib/x.py": file("x"), "lib/deep/y.py": file("y"),
		"l1": file("x"), "lib/l2": file("app"), "lib/l3": file("x"), "l4": file("y"), "l5": file("x"),
	}
	linked := fstest.MapFS{
		"app.py": file("app"), "lib/x.py": file("x"), "lib/deep/y.py": file("y"),
		"l1": link("lib/x.py"), "lib/l2": link("../app.py"), "lib/l3": link("./deep/../../l1"), "l4": link("lib//deep/y.py"), "l5": link(`lib\x.py`),
	}
	want, _, err := pack(plain, "f", funczip.Options{})
	if err != nil {
		t.Fatal(err)
	}
	if got, _, err := pack(linked, "f", funczip.Options{}); err != nil || !bytes.Equal(got, want) {
		t.Errorf("links are not followed: %v", err)
	}
	app := file("app")
	for name, c := range map[string]struct {
		fs   fs.FS
		want error
	}{
		"absolute":           {fstest.MapFS{"app.py": app, "l": link("/etc/passwd")}, funczip.ErrLink},
		"outside":            {fstest.MapFS{"app.py": app, "l": link("../secret")}, funczip.ErrLink},
		"outside, deeper":    {fstest.MapFS{"app.py": app, "a/l": link("../../secret")}, funczip.ErrLink},
		"absolute, inside":   {fstest.MapFS{"app.py": app, "l": link("/app.py")}, funczip.ErrLink},
		"outside, same name": {fstest.MapFS{"app.py": app, "l": link("../app.py")}, funczip.ErrLink},
		"outside and back":   {fstest.MapFS{"app.py": app, "l": link("../f/app.py")}, funczip.ErrLink},
		"Windows path":       {fstest.MapFS{"app.py": app, "l": link(`C:\secret`)}, funczip.ErrLink},
		"Windows outside":    {fstest.MapFS{"app.py": app, "l": link(`..\secret`)}, funczip.ErrLink},
		"nowhere":            {fstest.MapFS{"app.py": app, "l": link("none")}, funczip.ErrLink},
		"to itself":          {fstest.MapFS{"app.py": app, "l": link("l")}, funczip.ErrLink},
		"in a circle":        {fstest.MapFS{"app.py": app, "l": link("m"), "m": link("l")}, funczip.ErrLink},
		"to a folder":        {fstest.MapFS{"app.py": app, "a/b": app, "l": link("a")}, funczip.ErrLink},
		"to the folder":      {fstest.MapFS{"app.py": app, "l": link(".")}, funczip.ErrLink},
		"to a pipe":          {fstest.MapFS{"app.py": app, "p/q": {Mode: fs.ModeNamedPipe}, "l": link("p/q")}, funczip.ErrIrregular},
		"unreadable":         {blind{fstest.MapFS{"app.py": app, "l": link("app.py")}}, funczip.ErrLink},
	} {
		if _, _, err := pack(c.fs, "f", funczip.Options{}); !errors.Is(err, c.want) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestChainOfLinks(t *testing.T) {
	for links, want := range map[int]error{40: nil, 41: funczip.ErrLink} {
		chain := fstest.MapFS{"l0": file("app")}
		for i := range links {
			chain[fmt.Sprintf("l%d", i+1)] = link(fmt.Sprintf("l%d", i))
		}
		if _, _, err := pack(chain, "f", funczip.Options{}); !errors.Is(err, want) {
			t.Errorf("%d links: %v", links, err)
		}
	}
}

// blind is a file system that follows links but cannot read them.
type blind struct{ fs fstest.MapFS }

func (b blind) Open(name string) (fs.File, error)          { return b.fs.Open(name) }
func (b blind) ReadDir(name string) ([]fs.DirEntry, error) { return b.fs.ReadDir(name) }

// The same on a real disk, where os.DirFS would follow any link, and a link
// may lead out through a linked folder.
func TestLinksOnDisk(t *testing.T) {
	if runtime.GOOS == "windows" {
		t.Log("making links needs a privilege there; TestLinks covers the rules")
		return
	}
	outside, dir := t.TempDir(), t.TempDir()
	for _, path := range []string{filepath.Join(outside, "secret"), filepath.Join(dir, "app.py")} {
		if err := os.WriteFile(path, []byte("content"), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	symlink := func(target, name string) {
		if err := os.Symlink(target, filepath.Join(dir, name)); err != nil {
			t.Fatal(err)
		}
	}
	symlink("app.py", "good")
	root, err := os.OpenRoot(dir)
	if err != nil {
		t.Fatal(err)
	}
	defer root.Close()
	for name, fsys := range map[string]fs.FS{"DirFS": os.DirFS(dir), "Root": root.FS()} {
		if _, size, err := pack(fsys, "f", funczip.Options{}); err != nil || size.Files != 2 {
			t.Errorf("%s: %+v, %v", name, size, err)
		}
	}
	rel, err := filepath.Rel(dir, outside)
	if err != nil {
		t.Fatal(err)
	}
	for i, target := range []string{filepath.Join(outside, "secret"), filepath.Join(rel, "secret")} {
		bad := fmt.Sprintf("bad%d", i)
		symlink(target, bad)
		for name, fsys := range map[string]fs.FS{"DirFS": os.DirFS(dir), "Root": root.FS()} {
			if _, _, err := pack(fsys, "f", funczip.Options{}); !errors.Is(err, funczip.ErrLink) {
				t.Errorf("%s, %s: %v", name, target, err)
			}
		}
		if err := os.Remove(filepath.Join(dir, bad)); err != nil {
			t.Fatal(err)
		}
	}
	// A linked folder is an error by itself, and so is what is named through it.
	symlink(outside, "way")
	symlink("way/secret", "a_through")
	if _, _, err := pack(os.DirFS(dir), "f", funczip.Options{}); !errors.Is(err, funczip.ErrLink) {
		t.Errorf("through a linked folder: %v", err)
	}
}
