package rootfs

import (
	"bytes"
	"errors"
	"os"
	"testing"

	"github.com/cape-functions/cape/image/internal/cpio"
)

func TestKeep(t *testing.T) {
	for name, want := range map[string]bool{
		"usr/bin/python3.11": true, "usr/bin/pdb3.11": false, "lib/x86_64-linux-gnu/libc.so.6": true, "lib64/ld-linux-x86-64.so.2": true,
		"usr/lib/x86_64-linux-gnu/libssl.so.3": true, "usr/lib/x86_64-linux-gnu/ossl-modules/legacy.so": false,
		"usr/lib/x86_64-linux-gnu/gconv/UTF-7.so": false, "lib/x86_64-linux-gnu/libthread_db.so.1": false,
		"usr/lib/python3.11/json/__init__.py": true, "usr/lib/python3.11/test/support/__init__.py": false, "usr/lib/python3.11/testing.py": true,
		"usr/lib/python3.11/lib-dynload/_testcapi.cpython-311-x86_64-linux-gnu.so": false,
		"usr/lib/python3.11/lib-dynload/_ssl.cpython-311-x86_64-linux-gnu.so":      true,
		"usr/lib/python3.11/lib-dynload/_ctypes.cpython-311-x86_64-linux-gnu.so":   true,
		"usr/lib/python3.11/sitecustomize.py":                                      false,
		"usr/share/doc/libc6/copyright":                                            false, "etc/ld.so.conf": false, "var/lib/x": false, "usr/bin/gcc": false,
	} {
		if got := keep(merged(name)); got != want {
			t.Errorf("%s: %v", name, got)
		}
	}
}

func tree(t *testing.T, entries ...cpio.Entry) *Tree {
	t.Helper()
	tree := newTree()
	for _, e := range entries {
		if err := tree.add("p", e); err != nil {
			t.Fatal(err)
		}
	}
	return tree
}

func link(name, target string) cpio.Entry {
	return cpio.Entry{Name: name, Mode: cpio.Symlink | 0o777, Data: []byte(target)}
}

func file(name string, data []byte) cpio.Entry {
	return cpio.Entry{Name: name, Mode: cpio.Regular | 0o755, Data: data}
}

// TestOrder: the same files give the same archive, in whichever order they came.
func TestOrder(t *testing.T) {
	a, b := file("usr/bin/a", []byte("1")), file("usr/lib/b", []byte("2"))
	var one, other bytes.Buffer
	if err := errors.Join(tree(t, a, b).Write(&one), tree(t, b, a).Write(&other)); err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(one.Bytes(), other.Bytes()) {
		t.Error("two archives of the same files differ")
	}
}

func TestAddRefuses(t *testing.T) {
	for name, e := range map[string]cpio.Entry{
		"the same file twice": file("usr/a", nil), "below a file": file("usr/a/b", nil), "a folder in place of a file": {Name: "usr/a", Mode: cpio.Dir | 0o755},
	} {
		if err := tree(t, file("usr/a", nil)).add("q", e); !errors.Is(err, ErrTree) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestLookup(t *testing.T) {
	f := tree(t, file("usr/lib/x.so.1", []byte("x")), link("lib", "usr/lib"), link("usr/lib/x.so", "x.so.1"), link("usr/lib/abs", "/lib/x.so"),
		link("loop", "loop"), link("nowhere", "/usr/none"))
	for name, want := range map[string]bool{
		"lib/x.so.1": true, "lib/x.so": true, "/lib/abs": true, "usr/lib/../lib/x.so": true, "loop": false, "nowhere": false, "lib/y": false,
	} {
		if e := f.lookup(name); (e != nil) != want {
			t.Errorf("%s: %v", name, e)
		}
	}
}

// TestCheckLinks: what a program needs must be there, and links must lead somewhere.
func TestCheckLinks(t *testing.T) {
	if err := tree(t, link("a", "b")).CheckLinks(); !errors.Is(err, ErrTree) {
		t.Errorf("a link to nowhere: %v", err)
	}
	if err := tree(t, file("a", []byte("\x7fELF, but no more"))).CheckLinks(); !errors.Is(err, ErrTree) {
		t.Errorf("half a program: %v", err)
	}
	sh, err := os.ReadFile("/bin/sh") // linked against the C library on every system that these tests run on
	if err != nil {
		t.Fatal(err)
	}
	if err := tree(t, file("bin/sh", sh)).CheckLinks(); !errors.Is(err, ErrTree) {
		t.Errorf("a program without its libraries: %v", err)
	}
	if err := tree(t, file("bin/sh", sh), file(libraries+"libc.so.6", nil)).CheckLinks(); err != nil {
		t.Errorf("a program with its library: %v", err)
	}
}

func TestBundleNeedsCertificates(t *testing.T) {
	if err := newTree().addBundle(map[string][]byte{"a": []byte("x")}); !errors.Is(err, ErrTree) {
		t.Errorf("%v", err)
	}
}

// TestSystem: what the first process expects to find.
func TestSystem(t *testing.T) {
	f := newTree()
	if err := f.addSystem(); err != nil {
		t.Fatal(err)
	}
	for name, mode := range map[string]uint32{
		"proc": cpio.Dir | 0o755, "sys": cpio.Dir | 0o755, "dev": cpio.Dir | 0o755, "run": cpio.Dir | 0o755, "tmp": cpio.Dir | 0o1777,
		"scratch": cpio.Dir | 0o700, "dev/console": cpio.Char | 0o600, "lib64": cpio.Symlink | 0o777,
	} {
		if f.files[name].Mode != mode {
			t.Errorf("%s: %o, not %o", name, f.files[name].Mode, mode)
		}
	}
	python, err := Worker(map[string][]byte{"server.py": []byte("pass\n")})
	if err != nil {
		t.Fatal(err)
	}
	runtime, err := Ours([]byte("binary"), python)
	if err != nil || runtime.files["init"].Mode != cpio.Regular|0o755 || runtime.files["usr/lib/cape/server.py"].Mode != cpio.Regular|0o644 {
		t.Errorf("%v %v", runtime, err)
	}
	if _, there := python.files["init"]; there {
		t.Error("one runtime's tree is the other's too")
	}
}
