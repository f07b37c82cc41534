package intake

import (
	"archive/zip"
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"math"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/cape-functions/cape/core/wire"
)

// TestStructure changes the records of a sound zip: everything that two readers
// could understand differently is refused.
func TestStructure(t *testing.T) {
	le := binary.LittleEndian
	end := func(z []byte) []byte { return z[len(z)-lenEnd:] }
	central := func(z []byte) []byte { return z[le.Uint32(end(z)[16:]):] }
	for _, c := range []struct {
		name string
		lie  func(z []byte) []byte
	}{
		{"bytes before the zip", func(z []byte) []byte { return append([]byte("#!/bin/sh\n"), z...) }},
		{"bytes after the zip", func(z []byte) []byte { return append(z, "more"...) }},
		{"a gap before the end record", func(z []byte) []byte {
			return append(append(bytes.Clone(z[:len(z)-lenEnd]), "gap"...), end(z)...)
		}},
		{"fewer entries than the directory has", func(z []byte) []byte { le.PutUint16(end(z)[10:], 1); return z }},
		{"more entries than the directory has", func(z []byte) []byte { le.PutUint16(end(z)[10:], 3); return z }},
		{"directory elsewhere", func(z []byte) []byte { le.PutUint32(end(z)[16:], 0); return z }},
		{"directory past the end", func(z []byte) []byte { le.PutUint32(end(z)[16:], math.MaxUint32-1); return z }},
		{"one part of several", func(z []byte) []byte { le.PutUint16(end(z)[4:], 1); return z }},
		{"another name in the local header", func(z []byte) []byte { z[lenLocal] = 'x'; return z }},
		{"another method in the local header", func(z []byte) []byte { le.PutUint16(z[8:], methodStore); return z }},
		{"no local header", func(z []byte) []byte { z[0] = 0; return z }},
		{"local header in the directory", func(z []byte) []byte { le.PutUint32(central(z)[42:], le.Uint32(end(z)[16:])); return z }},
		{"packed size reaches into the next entry", func(z []byte) []byte { le.PutUint32(central(z)[20:], 120); return z }},
		{"packed size reaches past everything", func(z []byte) []byte { le.PutUint32(central(z)[20:], 1<<30); return z }},
		{"64-bit size that is missing", func(z []byte) []byte { le.PutUint32(central(z)[24:], math.MaxUint32); return z }},
		{"patched data", func(z []byte) []byte { central(z)[8] |= 1 << 5; return z }},
		{"strong encryption", func(z []byte) []byte { central(z)[8] |= 1 << 6; return z }},
		{"encrypted directory", func(z []byte) []byte { central(z)[9] |= 1 << 5; return z }},
	} {
		t.Run(c.name, func(t *testing.T) {
			z := c.lie(pack(t, item{name: "app.py", data: app}, item{name: "b", data: strings.Repeat("b", 200)}))
			if _, err := Check(t.Context(), bytes.NewReader(z), int64(len(z)), rules(), accept); !errors.Is(err, ErrInvalid) {
				t.Errorf("Check = %v, want ErrInvalid", err)
			}
		})
	}
}

// TestZip64 makes the end record say that everything stands in the 64-bit one.
func TestZip64(t *testing.T) {
	le := binary.LittleEndian
	z := pack(t, item{name: "app.py", data: app})
	end := bytes.Clone(z[len(z)-lenEnd:])
	z = z[:len(z)-lenEnd]
	at := uint64(len(z))
	record := make([]byte, lenEnd64+lenLocator64)
	le.PutUint32(record, sigEnd64)
	le.PutUint64(record[4:], lenEnd64-12)
	le.PutUint64(record[24:], 1)
	le.PutUint64(record[32:], 1)
	le.PutUint64(record[40:], uint64(le.Uint32(end[12:])))
	le.PutUint64(record[48:], uint64(le.Uint32(end[16:])))
	le.PutUint32(record[lenEnd64:], sigLocator64)
	le.PutUint64(record[lenEnd64+8:], at)
	le.PutUint32(record[lenEnd64+16:], 1)
	copy(end[8:], bytes.Repeat([]byte{0xff}, 12))
	whole := append(append(bytes.Clone(z), record...), end...)
	if _, err := Check(t.Context(), bytes.NewReader(whole), int64(len(whole)), rules(), accept); err != nil {
		t.Errorf("Check = %v", err)
	}
	for _, field := range []int{0, 4, 32, 40, 48, lenEnd64 + 8} {
		lie := bytes.Clone(whole)
		le.PutUint64(lie[int(at)+field:], math.MaxUint64)
		if _, err := Check(t.Context(), bytes.NewReader(lie), int64(len(lie)), rules(), accept); !errors.Is(err, ErrInvalid) {
			t.Errorf("with a lie at %d of the record: %v, want ErrInvalid", field, err)
		}
	}
}

func TestManyEntries(t *testing.T) { // Go writes 64-bit records from 65,535 entries on
	items := []item{{name: "f/app.py", data: app}}
	for i := range 66_000 {
		items = append(items, item{name: fmt.Sprintf("f/%d", i)})
	}
	z := pack(t, items...)
	l, err := Check(t.Context(), bytes.NewReader(z), int64(len(z)), Rules{Limits: wire.DefaultLimits()}, accept)
	if err != nil || l.Files != 66_001 {
		t.Errorf("Check = %+v, %v", l, err)
	}
}

func TestFoldersAreCounted(t *testing.T) {
	items := []item{{name: "app.py", data: app}}
	for i := range wire.MaxFunctionFiles/60 + 1 {
		items = append(items, item{name: fmt.Sprintf("%d/", i) + strings.Repeat("d/", 60) + "x"})
	}
	z := pack(t, items...)
	if _, err := Check(t.Context(), bytes.NewReader(z), int64(len(z)), Rules{Limits: wire.DefaultLimits()}, accept); !errors.Is(err, ErrInvalid) {
		t.Errorf("Check = %v, want ErrInvalid", err)
	}
}

func TestProportion(t *testing.T) {
	for _, c := range []struct {
		unpacked, zip int64
		want          bool
	}{{64 << 20, 1, false}, {65 << 20, 65 << 10, true}, {1 << 30, 100 << 20, false}, {4_000_000_000, 10_000_000, true}} {
		if got := bomb(c.unpacked, c.zip); got != c.want {
			t.Errorf("bomb(%d, %d) = %v", c.unpacked, c.zip, got)
		}
	}
}

func TestUnpackNeedsPrivacy(t *testing.T) {
	dir := private(t)
	if err := os.Chmod(dir, 0o711); err != nil {
		t.Fatal(err)
	}
	z := pack(t, item{name: "app.py", data: app})
	_, err := Unpack(t.Context(), bytes.NewReader(z), int64(len(z)), rules(), dir, anyRoom)
	if !errors.Is(err, os.ErrPermission) || errors.Is(err, ErrInvalid) {
		t.Errorf("Unpack = %v, want ErrPermission", err)
	}
}

func TestUnpackOverFiles(t *testing.T) {
	dir := private(t)
	if err := os.Symlink("/etc", filepath.Join(dir, "f")); err != nil {
		t.Fatal(err)
	}
	z := pack(t, item{name: "f/app.py", data: app})
	if _, err := Unpack(t.Context(), bytes.NewReader(z), int64(len(z)), rules(), dir, anyRoom); err == nil || errors.Is(err, ErrInvalid) {
		t.Errorf("Unpack = %v, want an error of the file system", err)
	}
}

// late cancels when something far into the zip is read.
type late struct {
	io.ReaderAt
	at     int64
	cancel func()
}

func (l *late) ReadAt(p []byte, off int64) (int, error) {
	if off <= l.at && l.at < off+int64(len(p)) {
		l.cancel()
	}
	return l.ReaderAt.ReadAt(p, off)
}

func TestCancelledHalfWay(t *testing.T) {
	var noise bytes.Buffer
	for i := range 100_000 {
		fmt.Fprintf(&noise, "%x", i*i)
	}
	z := pack(t, item{name: "app.py", data: app}, item{name: "b", data: noise.String(), edit: func(h *zip.FileHeader) { h.Method = zip.Store }})
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	r := &late{bytes.NewReader(z), int64(len(z)) / 2, cancel}
	if _, err := Unpack(ctx, r, int64(len(z)), rules(), private(t), anyRoom); !errors.Is(err, context.Canceled) {
		t.Errorf("Unpack = %v, want the context's error", err)
	}
}

func TestTags(t *testing.T) {
	for _, c := range []struct {
		name string
		ok   bool
	}{
		{"_ext.cpython-311-x86_64-linux-gnu.so", true},
		{"_ext.abi3.so", true},
		{"_ext.so", true},
		{"libz.so.1.2.3", true},
		{"notes.so.txt", true},
		{"_ext.cpython-311d-x86_64-linux-gnu.so", false},
		{"_ext.cpython-312-x86_64-linux-gnu.so", false},
		{"_ext.cpython-39-x86_64-linux-gnu.so", false},
		{"_ext.pypy311-pp73-x86_64-linux-gnu.so", false},
		{"_ext.pyd", false},
		{"_ext.cp311-win_amd64.pyd", false},
	} {
		_, err := checkObject(rules(), "f/"+c.name, strings.NewReader(elfHead(62)))
		if c.ok && err != nil || !c.ok && !errors.Is(err, ErrInvalid) {
			t.Errorf("%s: %v", c.name, err)
		}
	}
}

// TestRoomIsAskedForFirst: what a tree takes is known, inodes and all, before any of it is written.
func TestRoomIsAskedForFirst(t *testing.T) {
	z, dir, full := pack(t, item{name: "fn/app.py", data: "x"}, item{name: "fn/a/b", data: "y"}), private(t), errors.New("full")
	asked := int64(0)
	_, err := Unpack(t.Context(), bytes.NewReader(z), int64(len(z)), rules(), dir, func(room int64) error {
		asked = room
		return full
	})
	if !errors.Is(err, full) || asked != 2+4*4096 {
		t.Errorf("%v, asked for %d bytes", err, asked)
	}
	if left, err := os.ReadDir(dir); err != nil || len(left) != 0 {
		t.Errorf("written: %v %v", left, err)
	}
}

// TestNamesAreBounded: names are held several times while a zip is judged, so all together are bounded.
func TestNamesAreBounded(t *testing.T) {
	r, long := rules(), strings.Repeat(strings.Repeat("x", 250)+"/", 3)
	r.Limits.Zip = 1 << 30
	names := func(n int) []byte {
		files := []item{{name: "fn/app.py", data: app}}
		for i := range n {
			files = append(files, item{name: fmt.Sprint("fn/", long, i)})
		}
		return pack(t, files...)
	}
	for n, want := range map[int]error{28_000: nil, 33_000: ErrInvalid} {
		z := names(n)
		if _, err := Check(t.Context(), bytes.NewReader(z), int64(len(z)), r, accept); !errors.Is(err, want) {
			t.Errorf("%d names: %v", n, err)
		}
	}
}
