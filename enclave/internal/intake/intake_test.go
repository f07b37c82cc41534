package intake

import (
	"archive/zip"
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/cape-functions/cape/core/wire"
)

type item struct {
	name string
	data string
	mode fs.FileMode
	edit func(*zip.FileHeader)
}

func pack(t testing.TB, items ...item) []byte {
	t.Helper()
	var b bytes.Buffer
	w := zip.NewWriter(&b)
	for _, i := range items {
		h := &zip.FileHeader{Name: i.name, Method: zip.Deflate}
		if i.mode != 0 {
			h.SetMode(i.mode)
		}
		if i.edit != nil {
			i.edit(h)
		}
		f, err := w.CreateHeader(h)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := f.Write([]byte(i.data)); err != nil {
			t.Fatal(err)
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

func rules() Rules {
	l := wire.DefaultLimits()
	l.Tree, l.Zip = 10<<20, 10<<20
	return Rules{Limits: l, Python: "3.11", Platform: "linux-x86_64"}
}

func accept(context.Context, []byte) error { return nil }

func elfHead(machine uint16) string {
	h := make([]byte, 64)
	copy(h, "\x7fELF\x02\x01\x01")
	binary.LittleEndian.PutUint16(h[18:], machine)
	return string(h)
}

// private is an empty directory as Unpack needs it.
func private(t *testing.T) string {
	t.Helper()
	dir := filepath.Join(t.TempDir(), "private")
	if err := os.Mkdir(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	return dir
}

const app = "def cape_handler(d): return d\n"

func anyRoom(int64) error { return nil }

func TestAccepted(t *testing.T) {
	for _, c := range []struct {
		name  string
		items []item
		want  Layout
	}{
		{"top folder", []item{{name: "echo/app.py", data: app}, {name: "echo/lib/__init__.py"}}, Layout{"echo", 2, int64(len(app)), int64(len(app)) + 4<<12}},
		{"at the root", []item{{name: "app.py", data: app}, {name: "other/app.py", data: app}}, Layout{".", 2, 2 * int64(len(app)), 2*int64(len(app)) + 3<<12}},
		{"folders listed", []item{{name: "f/", mode: fs.ModeDir | 0o755}, {name: "f/app.py", data: app}, {name: "f/sub/", mode: fs.ModeDir | 0o755}}, Layout{"f", 1, int64(len(app)), int64(len(app)) + 3<<12}},
		{"hidden files and macOS's own folder", []item{{name: "f/app.py", data: app}, {name: "f/.env", data: "x"}, {name: "__MACOSX/._app.py", data: "y"}}, Layout{"f", 3, int64(len(app)) + 2, int64(len(app)) + 2 + 5<<12}},
		{"stored", []item{{name: "f/app.py", data: app, edit: func(h *zip.FileHeader) { h.Method = zip.Store }}}, Layout{"f", 1, int64(len(app)), int64(len(app)) + 2<<12}},
		{"fitting extension", []item{{name: "f/app.py", data: app}, {name: "f/m.cpython-311-x86_64-linux-gnu.so", data: elfHead(62)}, {name: "f/m.abi3.so", data: elfHead(62)}}, Layout{"f", 3, int64(len(app)) + 128, int64(len(app)) + 128 + 4<<12}},
		{"executable bit", []item{{name: "f/app.py", data: app, mode: 0o755}}, Layout{"f", 1, int64(len(app)), int64(len(app)) + 2<<12}},
	} {
		t.Run(c.name, func(t *testing.T) {
			z := pack(t, c.items...)
			var source []byte
			got, err := Check(t.Context(), bytes.NewReader(z), int64(len(z)), rules(), func(_ context.Context, s []byte) error { source = s; return nil })
			if err != nil {
				t.Fatal(err)
			}
			if d := cmp.Diff(&c.want, got); d != "" || string(source) != app {
				t.Errorf("%s; app.py is %q", d, source)
			}
			dir := private(t)
			if got, err = Unpack(t.Context(), bytes.NewReader(z), int64(len(z)), rules(), dir, anyRoom); err != nil || cmp.Diff(&c.want, got) != "" {
				t.Fatalf("unpacked %+v, %v", got, err)
			}
			b, err := os.ReadFile(filepath.Join(dir, got.Work, "app.py"))
			if err != nil || string(b) != app {
				t.Errorf("app.py unpacked as %q, %v", b, err)
			}
			info, err := os.Stat(filepath.Join(dir, got.Work, "app.py"))
			if err != nil || info.Mode().Perm() != 0o666 {
				t.Errorf("app.py has mode %v, %v", info.Mode(), err)
			}
		})
	}
}

func TestRefused(t *testing.T) {
	zeros := strings.Repeat("\x00", 11<<20)
	for name, items := range map[string][]item{
		"parent folder":            {{name: "f/app.py"}, {name: "f/../../etc/passwd"}},
		"starts with parent":       {{name: "../app.py"}, {name: "app.py"}},
		"absolute":                 {{name: "app.py"}, {name: "/etc/passwd"}},
		"backslash":                {{name: "app.py"}, {name: `..\x`}},
		"dot":                      {{name: "app.py"}, {name: "./x"}},
		"double slash":             {{name: "app.py"}, {name: "a//b"}},
		"control character":        {{name: "app.py"}, {name: "a\nb"}},
		"NUL":                      {{name: "app.py"}, {name: "a\x00b"}},
		"not UTF-8":                {{name: "app.py"}, {name: "a\xff", edit: func(h *zip.FileHeader) { h.NonUTF8 = true }}},
		"long path":                {{name: "app.py"}, {name: strings.Repeat("d/", wire.MaxPathBytes/2) + "x"}},
		"long name":                {{name: "app.py"}, {name: strings.Repeat("n", 256)}},
		"deep":                     {{name: "app.py"}, {name: strings.Repeat("d/", 66) + "x"}},
		"symlink":                  {{name: "app.py"}, {name: "link", data: "/etc/passwd", mode: fs.ModeSymlink | 0o777}},
		"device":                   {{name: "app.py"}, {name: "dev", mode: fs.ModeDevice | 0o666}},
		"pipe":                     {{name: "app.py"}, {name: "fifo", mode: fs.ModeNamedPipe | 0o666}},
		"setuid is a mode of file": {{name: "app.py"}, {name: "x", mode: fs.ModeSocket | 0o666}},
		"twice":                    {{name: "app.py"}, {name: "app.py"}},
		"case alone":               {{name: "app.py"}, {name: "A"}, {name: "a"}},
		"folders by case":          {{name: "app.py"}, {name: "D/a"}, {name: "d/b"}},
		"file and folder":          {{name: "app.py"}, {name: "x"}, {name: "x/y"}},
		"folder and file":          {{name: "app.py"}, {name: "x/y"}, {name: "x"}},
		"encrypted":                {{name: "app.py", edit: func(h *zip.FileHeader) { h.Flags |= 1 }}},
		"bomb":                     {{name: "app.py"}, {name: "zeros", data: zeros}},
		"no app.py":                {{name: "f/main.py"}},
		"app.py too deep":          {{name: "f/g/app.py"}},
		"two functions":            {{name: "f/app.py"}, {name: "g/app.py"}},
		"empty":                    {},
		"only a folder":            {{name: "f/", mode: fs.ModeDir | 0o755}},
		"large app.py":             {{name: "app.py", data: strings.Repeat("#", wire.MaxHandlerSource+1)}},
		"another Python":           {{name: "app.py"}, {name: "m.cpython-39-x86_64-linux-gnu.so", data: elfHead(62)}},
		"another processor":        {{name: "app.py"}, {name: "m.so", data: elfHead(183)}},
		"another system":           {{name: "app.py"}, {name: "m.cpython-311-darwin.so", data: "\xcf\xfa\xed\xfe" + strings.Repeat("x", 60)}},
		"macOS":                    {{name: "app.py"}, {name: "m.so", data: "\xcf\xfa\xed\xfe" + strings.Repeat("x", 60)}},
		"Windows":                  {{name: "app.py"}, {name: "m.pyd", data: "MZ"}},
	} {
		t.Run(name, func(t *testing.T) {
			z := pack(t, items...)
			if _, err := Check(t.Context(), bytes.NewReader(z), int64(len(z)), rules(), accept); !errors.Is(err, ErrInvalid) {
				t.Errorf("checked: %v", err)
			}
			if name == "large app.py" {
				return // only Check reads it whole
			}
			if _, err := Unpack(t.Context(), bytes.NewReader(z), int64(len(z)), rules(), private(t), anyRoom); !errors.Is(err, ErrInvalid) {
				t.Errorf("unpacked: %v", err)
			}
		})
	}
}

// TestLyingHeaders changes bytes of a sound zip by hand.
func TestLyingHeaders(t *testing.T) {
	sound := func() []byte {
		return pack(t, item{name: "app.py", data: app}, item{name: "zeros", data: strings.Repeat("\x00", 1<<20)})
	}
	central := func(z []byte, n int) []byte {
		at := 0
		for range n + 1 {
			at += bytes.Index(z[at:], []byte("PK\x01\x02")) + 1
		}
		return z[at-1:]
	}
	for name, lie := range map[string]func([]byte) []byte{
		"smaller than it unpacks": func(z []byte) []byte { binary.LittleEndian.PutUint32(central(z, 1)[24:], 10); return z },
		"larger than it unpacks":  func(z []byte) []byte { binary.LittleEndian.PutUint32(central(z, 1)[24:], 2<<20); return z },
		"another checksum":        func(z []byte) []byte { central(z, 1)[16] ^= 1; return z },
		"unknown method":          func(z []byte) []byte { binary.LittleEndian.PutUint16(central(z, 1)[10:], 99); return z },
		"shared data":             func(z []byte) []byte { binary.LittleEndian.PutUint32(central(z, 1)[42:], 0); return z },
		"cut":                     func(z []byte) []byte { return z[:len(z)-30] },
		"no zip":                  func([]byte) []byte { return []byte("hello") },
		"damaged data":            func(z []byte) []byte { copy(z[bytes.Index(z, []byte("zeros"))+5:], "garbage garbage"); return z },
	} {
		z := lie(sound())
		if _, err := Check(t.Context(), bytes.NewReader(z), int64(len(z)), rules(), accept); !errors.Is(err, ErrInvalid) {
			t.Errorf("%s: %v", name, err)
		}
	}
	r := rules()
	r.Limits.Zip = 10
	z := sound()
	if _, err := Check(t.Context(), bytes.NewReader(z), int64(len(z)), r, accept); !errors.Is(err, ErrInvalid) {
		t.Errorf("a zip above its limit: %v", err)
	}
}

func TestTooManyFiles(t *testing.T) {
	var items []item
	for i := range wire.MaxFunctionFiles + 1 {
		items = append(items, item{name: fmt.Sprint(i)})
	}
	z := pack(t, items...)
	if _, err := Check(t.Context(), bytes.NewReader(z), int64(len(z)), Rules{Limits: wire.DefaultLimits()}, accept); !errors.Is(err, ErrInvalid) {
		t.Error(err)
	}
}

func TestOtherErrorsPass(t *testing.T) {
	z := pack(t, item{name: "app.py", data: app})
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := Check(ctx, bytes.NewReader(z), int64(len(z)), rules(), accept); !errors.Is(err, context.Canceled) {
		t.Errorf("cancelled: %v", err)
	}
	mine := errors.New("mine")
	if _, err := Check(t.Context(), bytes.NewReader(z), int64(len(z)), rules(), func(context.Context, []byte) error { return mine }); !errors.Is(err, mine) {
		t.Errorf("handler check: %v", err)
	}
	if _, err := Check(t.Context(), broken{}, 1000, rules(), accept); !errors.Is(err, errBroken) || errors.Is(err, ErrInvalid) {
		t.Errorf("a reader's own error: %v", err)
	}
}

var errBroken = errors.New("broken")

type broken struct{}

func (broken) ReadAt([]byte, int64) (int, error) { return 0, errBroken }

func FuzzUnpack(f *testing.F) {
	f.Add(pack(f, item{name: "echo/app.py", data: app}, item{name: "echo/x/y", data: "z"}))
	f.Add(pack(f, item{name: "app.py", data: app}, item{name: "../x"}))
	f.Add(pack(f, item{name: "app.py", data: app}, item{name: "l", data: "/etc", mode: fs.ModeSymlink | 0o777}))
	f.Fuzz(func(t *testing.T, z []byte) {
		outer := t.TempDir()
		dir := filepath.Join(outer, "in")
		if err := os.Mkdir(dir, 0o700); err != nil {
			t.Fatal(err)
		}
		r := rules()
		r.Limits.Tree = 1 << 20
		_, checked := Check(t.Context(), bytes.NewReader(z), int64(len(z)), r, accept)
		_, unpacked := Unpack(t.Context(), bytes.NewReader(z), int64(len(z)), r, dir, anyRoom)
		if checked == nil && unpacked != nil {
			t.Errorf("passed the check but did not unpack: %v", unpacked)
		}
		if left, err := os.ReadDir(outer); err != nil || len(left) != 1 {
			t.Errorf("something escaped: %v %v", left, err)
		}
	})
}
