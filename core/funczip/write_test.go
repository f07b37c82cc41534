package funczip_test

import (
	"archive/zip"
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"io"
	"io/fs"
	"math/rand/v2"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
	"testing/fstest"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/cape-functions/cape/core/funczip"
)

func pack(fsys fs.FS, top string, opts funczip.Options) ([]byte, funczip.Size, error) {
	var out bytes.Buffer
	size, err := funczip.Write(&out, fsys, top, opts)
	return out.Bytes(), size, err
}

func file(content string) *fstest.MapFile { return &fstest.MapFile{Data: []byte(content), Mode: 0o644} }

func link(target string) *fstest.MapFile {
	return &fstest.MapFile{Data: []byte(target), Mode: fs.ModeSymlink | 0o777}
}

// The checksum was published with the original's echo example.
func TestKnownAnswer(t *testing.T) {
	echo := fstest.MapFS{"app.py": file("def cape_handler(message):\n    return message\n")}
	got, size, err := pack(echo, "echo", funczip.Options{})
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(funczip.Size{Files: 1, Plain: 46, Zip: 183}, size); diff != "" {
		t.Error(diff)
	}
	sum := sha256.Sum256(got)
	if hex.EncodeToString(sum[:]) != "f654a25ddf65ed79bfe514178126d97e1141857edf10b781c2f8c11525163c88" {
		t.Errorf("%x", sum)
	}
}

func TestLayout(t *testing.T) {
	folder := fstest.MapFS{
		"b.txt":          file("b"),
		"app.py":         file("app"),
		"a/z.txt":        file("z"),
		"a.txt":          file("a"),
		"a/.hidden":      file("h"),
		"empty":          {Mode: fs.ModeDir | 0o755},
		".git/config":    file("g"),
		"lib/ünïcode.py": file("u"),
		"script":         {Data: []byte("#!"), Mode: 0o755, ModTime: time.Unix(1e9, 0)},
	}
	got, _, err := pack(folder, "my_fn", funczip.Options{})
	if err != nil {
		t.Fatal(err)
	}
	r, err := zip.NewReader(bytes.NewReader(got), int64(len(got)))
	if err != nil {
		t.Fatal(err)
	}
	var names []string
	for _, f := range r.File {
		names = append(names, f.Name)
		if f.Method != zip.Deflate || !f.Modified.IsZero() && f.Modified.Year() > 1980 || f.ExternalAttrs != 0 || len(f.Extra) != 0 {
			t.Errorf("%s: method %d, time %v, attributes %x, extra %x", f.Name, f.Method, f.Modified, f.ExternalAttrs, f.Extra)
		}
	}
	want := []string{
		"my_fn/.git/config", "my_fn/a/.hidden", "my_fn/a/z.txt", "my_fn/a.txt", "my_fn/app.py",
		"my_fn/b.txt", "my_fn/lib/ünïcode.py", "my_fn/script",
	}
	if diff := cmp.Diff(want, names); diff != "" {
		t.Error(diff)
	}
	folder["script"] = file("#!")
	if again, _, err := pack(folder, "my_fn", funczip.Options{}); err != nil || !bytes.Equal(got, again) {
		t.Errorf("mode and time matter: %v", err)
	}
	if other, _, err := pack(folder, "other", funczip.Options{}); err != nil || bytes.Equal(got, other) {
		t.Errorf("the folder's name does not matter: %v", err)
	}
}

// halves is a file system whose files come a few bytes at a time.
type halves struct{ fs.FS }

type halfFile struct{ fs.File }

func (h halves) Open(name string) (fs.File, error) {
	f, err := h.FS.Open(name)
	if _, dir := f.(fs.ReadDirFile); err != nil || dir {
		return f, err
	}
	return halfFile{f}, nil
}

func (h halfFile) Read(p []byte) (int, error) { return h.File.Read(p[:min(len(p), 777)]) }

func TestReadsDoNotMatter(t *testing.T) {
	big := make([]byte, 300_000)
	for i := range big {
		big[i] = "abcdefgh"[rand.New(rand.NewPCG(uint64(i), 1)).IntN(8)]
	}
	folder := fstest.MapFS{"app.py": {Data: big, Mode: 0o644}}
	whole, _, err := pack(folder, "f", funczip.Options{})
	if err != nil {
		t.Fatal(err)
	}
	if pieces, _, err := pack(halves{folder}, "f", funczip.Options{}); err != nil || !bytes.Equal(whole, pieces) {
		t.Errorf("a file read in pieces gives another zip: %v", err)
	}
}

func TestRefused(t *testing.T) {
	app := file("app")
	for _, c := range []struct {
		name string
		top  string
		fs   fs.FS
		opts funczip.Options
		want error
	}{
		{"empty folder", "f", fstest.MapFS{}, funczip.Options{}, funczip.ErrEmpty},
		{"only folders", "f", fstest.MapFS{"a/b": {Mode: fs.ModeDir}}, funczip.Options{}, funczip.ErrEmpty},
		{"no such folder", "f", os.DirFS(filepath.Join(t.TempDir(), "none")), funczip.Options{}, fs.ErrNotExist},
		{"too many bytes", "f", fstest.MapFS{"app.py": app, "b": app}, funczip.Options{MaxBytes: 5}, funczip.ErrTooLarge},
		{"too many files", "f", fstest.MapFS{"app.py": app, "b": app}, funczip.Options{MaxFiles: 1}, funczip.ErrTooLarge},
		{"pipe", "f", fstest.MapFS{"app.py": app, "p": {Mode: fs.ModeNamedPipe}}, funczip.Options{}, funczip.ErrIrregular},
		{"device", "f", fstest.MapFS{"app.py": app, "p": {Mode: fs.ModeDevice}}, funczip.Options{}, funczip.ErrIrregular},
		{"backslash", "f", fstest.MapFS{`a\b`: app}, funczip.Options{}, funczip.ErrName},
		{"control character", "f", fstest.MapFS{"a\nb": app}, funczip.Options{}, funczip.ErrName},
		{"C1 control character", "f", fstest.MapFS{"a\u0085b": app}, funczip.Options{}, funczip.ErrName},
		{"long name", "f", fstest.MapFS{strings.Repeat("n", 256): app}, funczip.Options{}, funczip.ErrName},
		{"long path", "f", fstest.MapFS{strings.Repeat("123456789/", 102) + "123": app}, funczip.Options{}, funczip.ErrName},
		{"deep path", "f", fstest.MapFS{strings.Repeat("d/", 63) + "f": app}, funczip.Options{}, funczip.ErrName},
		{"no top", "", fstest.MapFS{"app.py": app}, funczip.Options{}, funczip.ErrName},
		{"top is dot", ".", fstest.MapFS{"app.py": app}, funczip.Options{}, funczip.ErrName},
		{"top is dot dot", "..", fstest.MapFS{"app.py": app}, funczip.Options{}, funczip.ErrName},
		{"top is a path", "a/b", fstest.MapFS{"app.py": app}, funczip.Options{}, funczip.ErrName},
		{"top is not UTF-8", "a\xff", fstest.MapFS{"app.py": app}, funczip.Options{}, funczip.ErrName},
	} {
		if _, _, err := pack(c.fs, c.top, c.opts); !errors.Is(err, c.want) {
			t.Errorf("%s: %v", c.name, err)
		}
		if _, err := funczip.Scan(c.fs, c.top, c.opts); !errors.Is(err, c.want) {
			t.Errorf("scan, %s: %v", c.name, err)
		}
	}
}

func TestExactLimits(t *testing.T) {
	folder := fstest.MapFS{
		"app.py": file("app"), "b": file("bb"),
		strings.Repeat("d/", 62) + "f":                                            file(""), // 64 names with the top folder
		strings.Repeat(strings.Repeat("n", 199)+"/", 5) + strings.Repeat("n", 22): file(""), // 1,024 bytes
		strings.Repeat("n", 255):                                                  file(""),
	}
	opts := funczip.Options{MaxBytes: 5, MaxFiles: 5}
	if _, _, err := pack(folder, "f", opts); err != nil {
		t.Error(err)
	}
	if size, err := funczip.Scan(folder, "f", opts); err != nil || size != (funczip.Size{Files: 5, Plain: 5}) {
		t.Error(size, err)
	}
}

// A file may be longer than it was when it was listed.
func TestLimitHoldsWhileReading(t *testing.T) {
	if _, _, err := pack(growing{fstest.MapFS{"app.py": file("app")}}, "f", funczip.Options{MaxBytes: 1 << 20}); !errors.Is(err, funczip.ErrTooLarge) {
		t.Error(err)
	}
}

// swapped is a folder whose file became a pipe after it was listed.
type swapped struct{ fstest.MapFS }

func (s swapped) Open(name string) (fs.File, error) {
	if name == "app.py" {
		return fstest.MapFS{name: {Mode: fs.ModeNamedPipe}}.Open(name)
	}
	return s.MapFS.Open(name)
}

func TestFileSwapped(t *testing.T) {
	if _, _, err := pack(swapped{fstest.MapFS{"app.py": file("app")}}, "f", funczip.Options{}); !errors.Is(err, funczip.ErrIrregular) {
		t.Error(err)
	}
}

type growing struct{ fs.FS }

type endless struct{ fs.File }

func (g growing) Open(name string) (fs.File, error) {
	f, err := g.FS.Open(name)
	if _, dir := f.(fs.ReadDirFile); err != nil || dir {
		return f, err
	}
	return endless{f}, nil
}

func (endless) Read(p []byte) (int, error) { return len(p), nil }

func TestProgress(t *testing.T) {
	folder := fstest.MapFS{"app.py": {Data: make([]byte, 1<<20), Mode: 0o644}, "b": file("b")}
	var last int64
	_, size, err := pack(folder, "f", funczip.Options{Progress: func(done int64) error {
		if done < last {
			t.Errorf("progress went back from %d to %d", last, done)
		}
		last = done
		return nil
	}})
	if err != nil || last != size.Plain || last != 1<<20+1 {
		t.Error(last, size, err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, _, err := pack(folder, "f", funczip.Options{Progress: func(int64) error { return ctx.Err() }}); !errors.Is(err, context.Canceled) {
		t.Error(err)
	}
}

func TestSinkError(t *testing.T) {
	want := errors.New("disk full")
	r, w := io.Pipe()
	r.CloseWithError(want)
	if _, err := funczip.Write(w, fstest.MapFS{"app.py": file("app")}, "f", funczip.Options{}); !errors.Is(err, want) {
		t.Error(err)
	}
}

// zeros is a file system with one large file.
type zeros struct {
	fstest.MapFS
	size int64
}

type zeroFile struct {
	fs.File
	left int64
}

func (z zeros) Open(name string) (fs.File, error) {
	f, err := z.MapFS.Open(name)
	if err != nil || name != "app.py" {
		return f, err
	}
	return &zeroFile{f, z.size}, nil
}

func (z *zeroFile) Read(p []byte) (int, error) {
	if z.left == 0 {
		return 0, io.EOF
	}
	n := min(int64(len(p)), z.left)
	z.left -= n
	clear(p[:n])
	return int(n), nil
}

func TestConstantMemory(t *testing.T) {
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	size, err := funczip.Write(io.Discard, zeros{fstest.MapFS{"app.py": file("")}, 64 << 20}, "f", funczip.Options{})
	runtime.ReadMemStats(&after)
	if err != nil || size.Plain != 64<<20 {
		t.Fatal(size, err)
	}
	if got := after.TotalAlloc - before.TotalAlloc; got > 8<<20 {
		t.Errorf("%d MiB allocated", got>>20)
	}
}
