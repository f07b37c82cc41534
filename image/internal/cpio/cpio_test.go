package cpio

import (
	"bytes"
	"errors"
	"strings"
	"testing"
)

// TestBytes compares with an archive taken apart by hand after the kernel's description of the format.
func TestBytes(t *testing.T) {
	var got bytes.Buffer
	w := NewWriter(&got)
	for _, e := range []Entry{
		{Name: "d", Mode: Dir | 0o755},
		{Name: "d/f", Mode: Regular | 0o644, Data: []byte("hello")},
		{Name: "l", Mode: Symlink | 0o777, Data: []byte("d/f")},
		{Name: "c", Mode: Char | 0o600, Major: 5, Minor: 1},
	} {
		if err := w.Add(e); err != nil {
			t.Fatal(err)
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	zero := strings.Repeat("0", 8)
	head := func(number, mode, links, size, major, minor, name string) string {
		return "070701" + number + mode + zero + zero + links + zero + size + zero + zero + major + minor + name + zero
	}
	want := head("00000001", "000041ed", "00000002", zero, zero, zero, "00000002") + "d\x00" +
		head("00000002", "000081a4", "00000001", "00000005", zero, zero, "00000004") + "d/f\x00\x00\x00" + "hello\x00\x00\x00" +
		head("00000003", "0000a1ff", "00000001", "00000003", zero, zero, "00000002") + "l\x00" + "d/f\x00" +
		head("00000004", "00002180", "00000001", zero, "00000005", "00000001", "00000002") + "c\x00" +
		head(zero, zero, "00000001", zero, zero, zero, "0000000b") + "TRAILER!!!\x00\x00\x00\x00"
	want += strings.Repeat("\x00", 1024-len(want))
	if got.String() != want {
		t.Errorf("got\n%q\nwant\n%q", got.String(), want)
	}
}

func TestRefused(t *testing.T) {
	for name, e := range map[string]Entry{
		"empty name": {Mode: Regular}, "absolute": {Name: "/f", Mode: Regular}, "upwards": {Name: "d/../f", Mode: Regular},
		"no folder": {Name: "x/f", Mode: Regular}, "below a file": {Name: "f/g", Mode: Regular}, "twice": {Name: "f", Mode: Regular},
		"a pipe": {Name: "p", Mode: 0o010644}, "the trailer": {Name: trailer, Mode: Regular}, "folder with content": {Name: "e", Mode: Dir, Data: []byte{1}},
		"a zero": {Name: "a\x00b", Mode: Regular}, "long": {Name: strings.Repeat("n", maxName+1), Mode: Regular},
	} {
		w := NewWriter(&bytes.Buffer{})
		for _, ok := range []Entry{{Name: "d", Mode: Dir | 0o755}, {Name: "f", Mode: Regular | 0o644}} {
			if err := w.Add(ok); err != nil {
				t.Fatal(err)
			}
		}
		if err := w.Add(e); !errors.Is(err, ErrEntry) {
			t.Errorf("%s: %v", name, err)
		}
	}
}
