package e2e

import (
	"bytes"
	"crypto/rand"
	"encoding/base64"
	"encoding/hex"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
)

// canary is a text that must be found nowhere on the host.
type canary struct{ name, text string }

func newCanary(t *testing.T, name string) canary {
	t.Helper()
	b := make([]byte, 24)
	if _, err := rand.Read(b); err != nil {
		t.Fatal(err)
	}
	return canary{name, "canary" + hex.EncodeToString(b)}
}

// forms are the ways a text can lie in memory or in a file: raw, in hex, and
// in base64 at each of the three alignments.
func (c canary) forms() map[string][]byte {
	raw := []byte(c.text)
	out := map[string][]byte{"raw": raw, "hex": []byte(hex.EncodeToString(raw))}
	for shift := range 3 {
		coded := base64.StdEncoding.EncodeToString(append(make([]byte, shift), raw...))
		// Characters that depend on neighbours are cut off on both sides.
		out[fmt.Sprintf("base64 at %d", shift)] = []byte(coded[4 : len(coded)-4])
	}
	return out
}

// search looks for every form of every canary.
type search struct {
	t     *testing.T
	where map[string][]byte
	bytes int64
}

func newSearch(t *testing.T, canaries ...canary) *search {
	s := &search{t: t, where: map[string][]byte{}}
	for _, c := range canaries {
		for form, b := range c.forms() {
			s.where[c.name+" ("+form+")"] = b
		}
	}
	return s
}

func (s *search) in(place string, b []byte) {
	s.bytes += int64(len(b))
	for name, form := range s.where {
		if bytes.Contains(b, form) {
			s.t.Errorf("%s found in %s", name, place)
		}
	}
}

// memory searches the writable memory of a process.
func (s *search) memory(pid int) {
	maps, err := os.ReadFile(fmt.Sprintf("/proc/%d/maps", pid))
	if err != nil {
		s.t.Fatal(err)
	}
	mem, err := os.Open(fmt.Sprintf("/proc/%d/mem", pid))
	if err != nil {
		s.t.Fatal(err)
	}
	defer mem.Close()
	read := 0
	for line := range strings.Lines(string(maps)) {
		fields := strings.Fields(line)
		if len(fields) < 2 || !strings.HasPrefix(fields[1], "rw") {
			continue
		}
		from, to, _ := strings.Cut(fields[0], "-")
		a, err1 := strconv.ParseInt(from, 16, 64)
		b, err2 := strconv.ParseInt(to, 16, 64)
		if err1 != nil || err2 != nil {
			continue
		}
		const step, overlap = 4 << 20, 4 << 10
		for at := a; at < b; at += step {
			buf := make([]byte, min(b-at, step+overlap))
			if n, _ := mem.ReadAt(buf, at); n > 0 { // pages that are not there cannot be read
				s.in(fmt.Sprintf("memory of process %d", pid), buf[:n])
				read += n
			}
		}
	}
	if read < 1<<20 {
		s.t.Fatalf("only %d bytes of process %d could be read: this search would find nothing", read, pid)
	}
}

func (s *search) files(dir string) {
	err := filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil || !d.Type().IsRegular() {
			return err
		}
		b, err := os.ReadFile(path)
		if err == nil {
			s.in(path, b)
		}
		return err
	})
	if err != nil {
		s.t.Fatal(err)
	}
}

func TestNoPlaintextOnTheHost(t *testing.T) {
	dir := t.TempDir()
	p := start(t, dir)
	code, input, secret, tested, failing := newCanary(t, "function"), newCanary(t, "input"), newCanary(t, "secret"), newCanary(t, "tested function"), newCanary(t, "failing input")
	source := "import hashlib\nNAME = '" + code.text + "'\ndef cape_handler(d):\n    if d.startswith(b'die'):\n        import os; os._exit(1)\n    if d.startswith(b'fail'):\n        raise ValueError('no')\n    return hashlib.sha256(d).hexdigest()\n"
	id := p.Deploy(function(t, "hasher", app(source)))
	sealed := strings.TrimSpace(p.Must("encrypt", secret.text))
	for range 3 {
		p.Must("run", id, input.text)
		p.Must("run", id, sealed)
	}
	p.Must("test", function(t, "tried", app("def cape_handler(d): return '"+"x"+"'\nNAME = '"+tested.text+"'\n")), input.text)
	for _, kind := range []string{"die", "fail"} {
		if r := p.Cape("", "run", id, kind+failing.text); r.Code == 0 {
			t.Errorf("%s succeeded", kind)
		}
	}
	s := newSearch(t, code, input, secret, tested, failing)
	s.memory(p.Cmd.Process.Pid)
	s.files(dir)
	s.in("the log", []byte(p.Log.String()))
	p.Kill()
	s.files(dir)
	t.Logf("searched %d MiB", s.bytes>>20)
}

// TestSearchFinds: a search that cannot fail proves nothing.
func TestSearchFinds(t *testing.T) {
	c := newCanary(t, "planted")
	for shift := range 3 {
		for form, place := range map[string]string{
			"raw":    strings.Repeat("x", shift) + c.text + "tail",
			"hex":    hex.EncodeToString([]byte("head" + c.text + "tail")),
			"base64": base64.StdEncoding.EncodeToString([]byte(strings.Repeat("h", 30+shift) + c.text + "tail")),
		} {
			probe := &testing.T{}
			s := newSearch(probe, c)
			found := false
			for _, b := range s.where {
				found = found || bytes.Contains([]byte(place), b)
			}
			if !found {
				t.Errorf("%s at %d is not found", form, shift)
			}
		}
	}
}
