package handler

import (
	"fmt"
	"os"
	"runtime"
	"sync"
	"testing"
)

// TestManyAtOnce: connections far beyond what waits ahead all get their process, and nothing of them is left.
func TestManyAtOnce(t *testing.T) {
	if os.Getenv("CAPE_TEST_FULL") == "" {
		t.Skip("takes a minute: CAPE_TEST_FULL=1 runs it")
	}
	h := newHost(t)
	o := Options{Tree: tree(t, map[string]string{"app.py": "def cape_handler(x): return x"}), Work: "fn"}
	var wg sync.WaitGroup
	for i := range 200 {
		wg.Go(func() {
			p, err := h.Start(t.Context(), o)
			if err != nil {
				t.Error(err)
				return
			}
			defer p.Close()
			if got, err := invoke(t, p, fmt.Sprint(i)); err != nil || got != fmt.Sprint(i) {
				t.Errorf("connection %d: %q, %v", i, got, err)
			}
		})
	}
	wg.Wait()
}

// TestThousandRuns: memory and descriptors are afterwards where they were.
func TestThousandRuns(t *testing.T) {
	if os.Getenv("CAPE_TEST_FULL") == "" {
		t.Skip("takes minutes: CAPE_TEST_FULL=1 runs it")
	}
	h := newHost(t)
	o := Options{Tree: tree(t, map[string]string{"app.py": "def cape_handler(x): return x"}), Work: "fn"}
	run := func(n int) {
		for range n {
			if out, _, err := once(t, h, o); err != nil || out != "x" {
				t.Fatalf("%q, %v", out, err)
			}
		}
	}
	measure := func() (descriptors int, heap uint64) {
		entries, err := os.ReadDir("/proc/self/fd")
		if err != nil {
			t.Fatal(err)
		}
		var m runtime.MemStats
		runtime.GC()
		runtime.ReadMemStats(&m)
		return len(entries), m.HeapAlloc
	}
	run(20)
	files, heap := measure()
	run(1000)
	filesAfter, heapAfter := measure()
	// Jails that wait come and go: eight descriptors each.
	if filesAfter > files+64 || heapAfter > heap+4<<20 {
		t.Errorf("%d descriptors and %d bytes, %d and %d before", filesAfter, heapAfter, files, heap)
	}
}
