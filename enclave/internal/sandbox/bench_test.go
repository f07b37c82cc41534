package sandbox

import (
	"os/exec"
	"path/filepath"
	"strconv"
	"testing"
	"time"
)

// benchJail measures how long it takes to get a jail; wait is called before each.
func benchJail(b *testing.B, get func(*Sandbox, Spec) (*Jail, error), wait func(*Sandbox)) {
	s := newSandbox(b)
	spec := function(b, "def cape_handler(x): return x")
	var spent time.Duration
	for range b.N {
		wait(s)
		begin := time.Now()
		j, err := get(s, spec)
		spent += time.Since(begin)
		if err != nil {
			b.Fatal(err)
		}
		closed(b, j)
		j.In.Close()
		j.Out.Close()
	}
	b.ReportMetric(float64(spent.Nanoseconds())/float64(b.N), "ns/op")
}

// BenchmarkJailReady: a waiting jail gets its function and may import it.
func BenchmarkJailReady(b *testing.B) {
	benchJail(b, func(s *Sandbox, spec Spec) (*Jail, error) { return s.Start(b.Context(), spec) }, func(s *Sandbox) {
		eventually(b, "a jail waits", func() bool { return len(s.ready) == cap(s.ready) })
	})
}

// BenchmarkJailBuilt: the same with none waiting.
func BenchmarkJailBuilt(b *testing.B) {
	benchJail(b, func(s *Sandbox, spec Spec) (*Jail, error) {
		j, err := s.newJail(b.Context())
		if err == nil {
			err = j.become(b.Context(), spec)
		}
		return j, err
	}, func(s *Sandbox) {
		eventually(b, "nothing else is built", func() bool { return len(s.ready) == cap(s.ready) })
	})
}

// BenchmarkFork is the peer: the fork server's interpreter forks, and waits for the child.
func BenchmarkFork(b *testing.B) {
	exe, _ := interpreter(b)
	code := filepath.Dir(config(b, b.TempDir()).Server[4])
	script := "import os, sys, time\nsys.path.insert(0, '" + code + "')\nimport server\nbegin = time.perf_counter()\nfor _ in range(" + strconv.Itoa(b.N) + "):\n" +
		"  if (p := os.fork()) == 0: os._exit(0)\n  os.waitpid(p, 0)\nprint(int((time.perf_counter() - begin) * 1e9))"
	out, err := exec.Command(exe, "-I", "-S", "-B", "-c", script).Output()
	if err != nil {
		b.Fatal(err)
	}
	spent, err := strconv.Atoi(string(out[:len(out)-1]))
	if err != nil {
		b.Fatal(err)
	}
	b.ReportMetric(float64(spent)/float64(b.N), "ns/op")
}
