package hostile

import (
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
)

// TestManyRuns: as many honest runs one after the other as a day has, and memory, descriptors and processes are where they were.
// It is a thousand with CAPE_TEST_FULL, which is past the life of a fork server.
func TestManyRuns(t *testing.T) {
	many, grown := 150, uint64(8<<20)
	if os.Getenv("CAPE_TEST_FULL") != "" {
		many = 1000
	}
	a := enter(t)
	run := func(n int) {
		for range n {
			if _, err := a.client.Run(t.Context(), a.honest, []byte("x")); err != nil {
				t.Fatal(err)
			}
		}
	}
	run(100) // after which caches are full, and spares wait
	a.baseline = a.settled(t, func(remains) bool { return true })
	before := a.memory(t)
	run(many)
	a.checkRemains(t, 8)
	for name, now := range a.memory(t) {
		t.Logf("%s: %d KiB after %d runs, %d before", name, now>>10, many, before[name]>>10)
		if now > before[name]+grown {
			t.Errorf("%s has %d KiB after %d runs, %d before", name, now>>10, many, before[name]>>10)
		}
	}
}

// memory is what caped and the runtime have of the machine's memory, in bytes.
func (a *arena) memory(t *testing.T) map[string]uint64 {
	t.Helper()
	found := map[string]uint64{}
	for _, pid := range append(descendants(a.Cmd.Process.Pid), a.Cmd.Process.Pid) {
		proc := filepath.Join("/proc", strconv.Itoa(pid))
		exe, err := os.Readlink(filepath.Join(proc, "exe"))
		name := filepath.Base(exe)
		if err != nil || name != "caped" && !strings.HasPrefix(name, "cape-runtime") {
			continue
		}
		text, err := os.ReadFile(filepath.Join(proc, "statm"))
		if err != nil {
			t.Fatal(err)
		}
		pages, err := strconv.ParseUint(strings.Fields(string(text))[1], 10, 64)
		if err != nil {
			t.Fatal(err)
		}
		found[name] = pages * uint64(os.Getpagesize())
	}
	if len(found) != 2 {
		t.Fatalf("found %v", found)
	}
	return found
}
