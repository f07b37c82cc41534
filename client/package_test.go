package client_test

import (
	"archive/zip"
	"context"
	"encoding/hex"
	"errors"
	"os"
	"path/filepath"
	"runtime"
	"testing"

	"github.com/cape-functions/cape/client"
	"github.com/cape-functions/cape/client/testkit"
)

const echoApp = "def cape_handler(arg):\n    return arg\n"

func writeZip(t *testing.T, names ...string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "my.fn.zip")
	f, err := os.Create(path)
	if err != nil {
		t.Fatal(err)
	}
	w := zip.NewWriter(f)
	for _, name := range names {
		if _, err := w.Create(name); err != nil {
			t.Fatal(err)
		}
	}
	if err := errors.Join(w.Close(), f.Close()); err != nil {
		t.Fatal(err)
	}
	return path
}

func TestPackIsDeterministic(t *testing.T) {
	one, two := pack(t, folder(t, "echo", echoApp)), pack(t, folder(t, "echo", echoApp))
	if one.Checksum != two.Checksum || one.Size != two.Size {
		t.Error("the same folder gives two zips")
	}
	if other := pack(t, folder(t, "other", echoApp)); other.Checksum == one.Checksum {
		t.Error("the folder's name is not in the zip")
	}
	if sum := hex.EncodeToString(one.Checksum[:]); len(sum) != 64 {
		t.Error(sum)
	}
}

func TestPackNames(t *testing.T) {
	dir := folder(t, "my.fn.v2", "")
	t.Chdir(dir)
	for path, want := range map[string]string{".": "my.fn.v2", dir: "my.fn.v2", dir + "/": "my.fn.v2", writeZip(t, "app.py"): "my.fn"} {
		if p := pack(t, path); p.Name != want {
			t.Errorf("%s: name %q, want %q", path, p.Name, want)
		}
	}
}

func TestPackZips(t *testing.T) {
	for _, names := range [][]string{{"app.py"}, {"fn/app.py", "fn/lib/x.py"}} {
		if _, err := client.Pack(t.Context(), writeZip(t, names...), ""); err != nil {
			t.Errorf("%v: %v", names, err)
		}
	}
	for _, names := range [][]string{{}, {"main.py"}, {"a/b/app.py"}, {"xapp.py"}} {
		if _, err := client.Pack(t.Context(), writeZip(t, names...), ""); !errors.Is(err, client.ErrPackage) {
			t.Errorf("%v: %v, want ErrPackage", names, err)
		}
	}
}

func TestPackRefuses(t *testing.T) {
	empty := t.TempDir()
	noHandler := folder(t, "x", "")
	if err := os.Rename(filepath.Join(noHandler, "app.py"), filepath.Join(noHandler, "main.py")); err != nil {
		t.Fatal(err)
	}
	handlerIsFolder := t.TempDir()
	if err := os.MkdirAll(filepath.Join(handlerIsFolder, "app.py", "x"), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(handlerIsFolder, "app.py", "x", "y"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	large := folder(t, "large", "")
	if err := os.Truncate(filepath.Join(large, "app.py"), 1_000_000_001); err != nil {
		t.Fatal(err)
	}
	text := filepath.Join(empty, "..", "text.txt")
	if err := os.WriteFile(text, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	for name, tc := range map[string]struct {
		path string
		want error
	}{
		"empty folder": {empty, client.ErrPackage}, "no handler": {noHandler, client.ErrPackage}, "app.py is a folder": {handlerIsFolder, client.ErrPackage},
		"too large": {large, client.ErrTooLarge}, "not a zip": {text, client.ErrPackage}, "absent": {filepath.Join(empty, "no"), os.ErrNotExist},
	} {
		if _, err := client.Pack(t.Context(), tc.path, t.TempDir()); !errors.Is(err, tc.want) {
			t.Errorf("%s: %v, want %v", name, err, tc.want)
		}
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := client.Pack(ctx, folder(t, "fn", "x"), t.TempDir()); !errors.Is(err, context.Canceled) {
		t.Errorf("ended context: %v", err)
	}
}

func TestPackLeavesNothing(t *testing.T) {
	temp := t.TempDir()
	p, err := client.Pack(t.Context(), folder(t, "fn", "x"), temp)
	if err != nil {
		t.Fatal(err)
	}
	if left, err := os.ReadDir(temp); runtime.GOOS != "windows" && (err != nil || len(left) != 0) {
		t.Errorf("in use: %v, %v", left, err)
	}
	if err := p.Close(); err != nil {
		t.Error(err)
	}
	if left, err := os.ReadDir(temp); err != nil || len(left) != 0 {
		t.Errorf("afterwards: %v, %v", left, err)
	}
}

func TestPackFollowsNoLinkOut(t *testing.T) {
	dir := folder(t, "fn", "x")
	secret := filepath.Join(t.TempDir(), "secret")
	if err := os.WriteFile(secret, []byte("secret"), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink(secret, filepath.Join(dir, "link")); err != nil {
		t.Fatal(err)
	}
	if _, err := client.Pack(t.Context(), dir, t.TempDir()); !errors.Is(err, client.ErrPackage) {
		t.Errorf("error %v, want ErrPackage", err)
	}
}

// TestZipChangesMeanwhile: what is sent is what was hashed.
func TestZipChangesMeanwhile(t *testing.T) {
	path := writeZip(t, "app.py")
	p := pack(t, path)
	data, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	data[12] ^= 1
	if err := os.WriteFile(path, data, 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := connect(t, testkit.New(t)).Test(t.Context(), p, nil); !errors.Is(err, client.ErrPackage) {
		t.Errorf("error %v, want ErrPackage", err)
	}
}
