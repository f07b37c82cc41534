package debian

import (
	"archive/tar"
	"bytes"
	"errors"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/cape-functions/cape/image/internal/lock"
)

func TestRecords(t *testing.T) {
	sum := strings.Repeat("0c", 32)
	text := "Package: make\nVersion: 4.3-4.1\nArchitecture: amd64\nDescription: a\n Package: b\nSHA256: " + sum +
		"\n\nPackage: bc\nArchitecture: all\nVersion: 1:2\nSHA256: " + sum + "\n\n"
	all, err := records(text)
	if err != nil || len(all) != 2 || all[0] != (lock.Package{Name: "bc", Version: "1:2", Arch: "all", SHA256: sum}) || all[1].Name != "make" {
		t.Errorf("%+v, %v", all, err)
	}
	if _, err := records("Package: libc6\n"); !errors.Is(err, lock.ErrInvalid) {
		t.Errorf("half a record: %v", err)
	}
}

// TestMissing: what lies in the cache counts only with the right content.
func TestMissing(t *testing.T) {
	dir := t.TempDir()
	good := lock.Package{Name: "a", SHA256: "2cf24dba5fb0a30e26e83b2ac5b9e29e1b161e5c1fa7425e73043362938b9824"} // "hello"
	changed := lock.Package{Name: "b", SHA256: strings.Repeat("00", 32)}
	absent := lock.Package{Name: "c", SHA256: strings.Repeat("11", 32)}
	for _, p := range []lock.Package{good, changed} {
		if err := os.WriteFile(File(dir, p), []byte("hello"), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	got, err := Missing(dir, []lock.Package{good, changed, absent})
	if err != nil || len(got) != 2 || got[0] != changed || got[1] != absent {
		t.Errorf("%v, %v", got, err)
	}
}

func archive(t *testing.T, headers ...tar.Header) io.Reader {
	t.Helper()
	var out bytes.Buffer
	w := tar.NewWriter(&out)
	for _, h := range headers {
		if err := w.WriteHeader(&h); err != nil {
			t.Fatal(err)
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return &out
}

// TestPlace: nothing of a package lands outside its folder.
func TestPlace(t *testing.T) {
	outside := t.TempDir()
	for name, headers := range map[string][]tar.Header{
		"upwards":        {{Name: "./../x", Typeflag: tar.TypeReg, Mode: 0o644}},
		"absolute":       {{Name: "/x", Typeflag: tar.TypeReg, Mode: 0o644}},
		"through a link": {{Name: "./l", Typeflag: tar.TypeSymlink, Linkname: outside}, {Name: "./l/x", Typeflag: tar.TypeReg, Mode: 0o644}},
		"a link upwards": {{Name: "./l", Typeflag: tar.TypeLink, Linkname: "../x"}},
	} {
		tree, err := os.OpenRoot(t.TempDir())
		if err != nil {
			t.Fatal(err)
		}
		defer tree.Close()
		err = walkTar(archive(t, headers...), func(h *tar.Header, r io.Reader) error { return place(tree, h, r) })
		if err == nil {
			t.Errorf("%s: unpacked", name)
		}
	}
	if left, err := filepath.Glob(filepath.Join(outside, "*")); err != nil || len(left) > 0 {
		t.Errorf("outside: %v %v", left, err)
	}
}

// TestUnsignedLists: a machine whose apt takes lists that nobody signed does not make this one do so.
func TestUnsignedLists(t *testing.T) {
	dir := t.TempDir()
	for _, suite := range []string{"bookworm", "bookworm-updates", "bookworm-security"} {
		lists := filepath.Join(dir, "mirror", "dists", suite, "main", "binary-amd64")
		if err := os.MkdirAll(lists, 0o755); err != nil {
			t.Fatal(err)
		}
		release := "Suite: " + suite + "\nCodename: " + suite + "\nArchitectures: amd64\nComponents: main\n"
		if err := errors.Join(os.WriteFile(filepath.Join(lists, "Packages"), nil, 0o644),
			os.WriteFile(filepath.Join(dir, "mirror", "dists", suite, "Release"), []byte(release), 0o644)); err != nil {
			t.Fatal(err)
		}
	}
	careless := filepath.Join(dir, "apt.conf")
	if err := os.WriteFile(careless, []byte(`Acquire::AllowInsecureRepositories "true"; Acquire::AllowWeakRepositories "true"; APT::Get::AllowUnauthenticated "true";`), 0o644); err != nil {
		t.Fatal(err)
	}
	t.Setenv("APT_CONFIG", careless)
	mirror := "file://" + filepath.Join(dir, "mirror")
	_, err := New(t.Context(), filepath.Join(dir, "state"), Sources{Mirror: mirror, Security: mirror, Suite: "bookworm"})
	if errors.Is(err, ErrNoApt) {
		t.Skip(err)
	}
	if err == nil {
		t.Error("unsigned lists were read")
	}
}
