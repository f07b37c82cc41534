package handler

import (
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"
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

// processes counts those below this one.
func processes(t *testing.T) (n int) {
	t.Helper()
	paths, err := filepath.Glob("/proc/[0-9]*/task/[0-9]*/children")
	if err != nil {
		t.Fatal(err)
	}
	children := map[string][]string{}
	for _, p := range paths {
		if data, err := os.ReadFile(p); err == nil {
			pid := strings.Split(p, "/")[2]
			children[pid] = append(children[pid], strings.Fields(string(data))...)
		}
	}
	for todo := children[strconv.Itoa(os.Getpid())]; len(todo) > 0; n++ {
		todo = append(todo[1:], children[todo[0]]...)
	}
	return n
}

// TestThousandRuns: memory, descriptors and processes are afterwards where they were, with spares and without.
func TestThousandRuns(t *testing.T) {
	if os.Getenv("CAPE_TEST_FULL") == "" {
		t.Skip("takes minutes: CAPE_TEST_FULL=1 runs it")
	}
	h := newHost(t)
	o := Options{Tree: tree(t, map[string]string{"app.py": "def cape_handler(x): return x"}), Work: "fn"}
	run := func(n int) {
		for i := range n {
			o.Hold = nil
			if i%2 == 0 {
				o.Hold = func() func() { return func() {} }
			}
			if out, _, err := once(t, h, o); err != nil || out != "x" {
				t.Fatalf("%q, %v", out, err)
			}
		}
	}
	measure := func() (descriptors, living int, heap uint64) {
		h.spares.mu.Lock()
		for _, p := range h.spares.pools {
			p.last = time.Time{}
		}
		h.spares.mu.Unlock()
		eventually(t, "spares end", func() bool { h.spares.mu.Lock(); defer h.spares.mu.Unlock(); return len(h.spares.pools) == 0 })
		time.Sleep(time.Second) // what waits ahead is there again
		entries, err := os.ReadDir("/proc/self/fd")
		if err != nil {
			t.Fatal(err)
		}
		var m runtime.MemStats
		runtime.GC()
		runtime.ReadMemStats(&m)
		return len(entries), processes(t), m.HeapAlloc
	}
	run(20)
	files, living, heap := measure()
	run(1000)
	filesAfter, livingAfter, heapAfter := measure()
	// Jails that wait come and go: eight descriptors each, two processes, and a server that has had its time.
	if filesAfter > files+64 || livingAfter > living+5 || living == 0 || heapAfter > heap+4<<20 {
		t.Errorf("%d descriptors, %d processes and %d bytes, %d, %d and %d before", filesAfter, livingAfter, heapAfter, files, living, heap)
	}
	t.Logf("%d descriptors, %d processes and %d bytes, %d, %d and %d before", filesAfter, livingAfter, heapAfter, files, living, heap)
}
