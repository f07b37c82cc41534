package session

import (
	"archive/zip"
	"bytes"
	"encoding/binary"
	"fmt"
	"runtime"
	"testing"
)

// packed is a zip of files with these names, with a comment at its end.
func packed(t *testing.T, comment string, names ...string) []byte {
	t.Helper()
	var b bytes.Buffer
	w := zip.NewWriter(&b)
	for _, name := range names {
		if _, err := w.CreateHeader(&zip.FileHeader{Name: name}); err != nil {
			t.Fatal(err)
		}
	}
	if err := w.SetComment(comment); err != nil {
		t.Fatal(err)
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

func TestRecordedDeploysAreKnown(t *testing.T) {
	many := make([]string, 1<<16) // needs the 64-bit form
	for i := range many {
		many[i] = fmt.Sprintf("f/%d", i)
	}
	for _, tt := range []struct {
		name string
		data []byte
		want bool
	}{
		{"in a folder", packed(t, "", "f/b.py", "f/app.py"), true},
		{"at the root", packed(t, "", "app.py"), true},
		{"with a comment", packed(t, "made by hand", "f/app.py", "f/b.py"), true},
		{"behind something else", append([]byte("#!/bin/sh\n"), packed(t, "", "f/app.py")...), true},
		{"of many files", packed(t, "", append(many, "f/app.py")...), true},
		{"another zip", packed(t, "", "f/myapp.py", "app.py.txt", "data.csv"), false},
		{"an empty zip", packed(t, ""), false},
		{"nothing", nil, false},
		{"no zip", []byte("app.py PK\x01\x02 PK\x05\x06"), false},
	} {
		if got := isFunction(tt.data); got != tt.want {
			t.Errorf("%s: %t", tt.name, got)
		}
		for cut := range min(len(tt.data), 200) {
			isFunction(tt.data[len(tt.data)-cut:])
		}
	}
}

func FuzzIsFunction(f *testing.F) {
	f.Add([]byte("PK\x05\x06"))
	f.Fuzz(func(_ *testing.T, data []byte) { isFunction(data) })
}

// A directory of a million entries that say nothing costs no memory.
func TestRecordedDeploysCostNoMemory(t *testing.T) {
	const entries = 1 << 20
	data := make([]byte, entries*46+22)
	for i := range entries {
		copy(data[i*46:], "PK\x01\x02")
	}
	end := data[entries*46:]
	copy(end, "PK\x05\x06")
	binary.LittleEndian.PutUint32(end[12:], entries*46)
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	if isFunction(data) {
		t.Error("taken for a function")
	}
	runtime.ReadMemStats(&after)
	if used := after.TotalAlloc - before.TotalAlloc; used > 1<<20 {
		t.Errorf("used %d bytes", used)
	}
}
