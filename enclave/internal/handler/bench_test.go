package handler

import (
	"bytes"
	"os"
	"os/exec"
	"strings"
	"testing"
	"time"
)

// heavyVariable names a folder that holds numpy and scikit-learn for this machine's Python, readable by all.
const heavyVariable = "CAPE_BENCH_HEAVY"

const heavyApp = "import sys\nsys.path.insert(0, '/function/fn/vendored')\nimport numpy, sklearn.linear_model\ndef cape_handler(x): return str(numpy.arange(4).sum())\n"

// benchHeavy measures connections to a function that imports much; wait is called before each. The folder's byte code is deployed with it
// or not.
func benchHeavy(b *testing.B, bytecode bool, hold func() func(), wait func(*Host)) {
	from := os.Getenv(heavyVariable)
	if from == "" {
		b.Skip(heavyVariable + " names no folder")
	}
	h := newHost(b)
	dir := tree(b, map[string]string{"app.py": heavyApp})
	if out, err := exec.Command("cp", "-a", from, dir+"/fn/vendored").CombinedOutput(); err != nil {
		b.Fatalf("%v %s", err, out)
	}
	if !bytecode {
		if out, err := exec.Command("find", dir, "-name", "*.pyc", "-delete").CombinedOutput(); err != nil {
			b.Fatalf("%v %s", err, out)
		}
	}
	o := Options{Tree: dir, Work: "fn", Hold: hold}
	once := func() time.Duration {
		begin := time.Now()
		p, err := h.Start(b.Context(), o)
		if err != nil {
			b.Fatal(err)
		}
		defer p.Close()
		var out bytes.Buffer
		if err := p.Invoke(b.Context(), strings.NewReader("x"), &out); err != nil || out.String() != "6" {
			b.Fatal(out.String(), err)
		}
		return time.Since(begin)
	}
	once()
	var spent time.Duration
	for range b.N {
		wait(h)
		spent += once()
	}
	b.ReportMetric(float64(spent.Nanoseconds())/float64(b.N), "ns/op")
}

// BenchmarkHeavyImport: as cape function vendor --bytecode leaves it.
func BenchmarkHeavyImport(b *testing.B) { benchHeavy(b, true, nil, func(*Host) {}) }

// BenchmarkHeavyImportSource: as cape function vendor leaves it.
func BenchmarkHeavyImportSource(b *testing.B) { benchHeavy(b, false, nil, func(*Host) {}) }

func BenchmarkHeavyImportSpare(b *testing.B) {
	benchHeavy(b, true, func() func() { return func() {} }, func(h *Host) {
		eventually(b, "a spare waits", func() bool { return h.spares.ready() > 0 })
		time.Sleep(100 * time.Millisecond) // the machine comes to rest
	})
}

// BenchmarkHeavyFresh is the peer: a fresh Python that imports the same and calls the handler.
func BenchmarkHeavyFresh(b *testing.B) {
	from := os.Getenv(heavyVariable)
	if from == "" {
		b.Skip(heavyVariable + " names no folder")
	}
	script := strings.Replace(heavyApp, "/function/fn/vendored", from, 1) + "print(cape_handler(b'x'))"
	fresh := func() {
		if out, err := exec.Command("python3", "-I", "-S", "-c", script).CombinedOutput(); err != nil || string(out) != "6\n" {
			b.Fatalf("%v %s", err, out)
		}
	}
	fresh()
	b.ResetTimer()
	for range b.N {
		fresh()
	}
}
