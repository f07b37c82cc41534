package main

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"time"

	"github.com/cape-functions/cape/client"
)

// jailBenchmarks runs benchmarks beside the code of the enclave, which no other zone may import.
func jailBenchmarks(b *bench, pkg string, names ...string) ([]float64, error) {
	got, err := goBench(b, pkg)
	if err != nil {
		return nil, err
	}
	values := make([]float64, 0, len(names))
	for _, n := range names {
		v, ok := got[n]
		if !ok {
			return nil, fmt.Errorf("no benchmark %s", n)
		}
		values = append(values, v/1e6)
	}
	return values, nil
}

// jail: a jailed process ready for its function, against a fork of the same interpreter.
func (b *bench) jail() error {
	v, err := jailBenchmarks(b, "./enclave/internal/sandbox", "JailReady", "JailBuilt", "Fork")
	if err != nil {
		return err
	}
	b.add("jailed process ready", "ms", "<= 4", "one of those built ahead; peer: one fork of the same interpreter", v[0], v[2])
	b.add("  the same, none built ahead", "ms", "", "", v[1], v[2])
	return nil
}

// heavy: a function that imports numpy and scikit-learn, against a fresh Python that imports them.
func (b *bench) heavy() error {
	if b.load == "" {
		b.add("heavy import", "ms", "<= 0.05", "not measured: run.sh installs numpy and scikit-learn for it", 0, 0)
		return nil
	}
	path, err := filepath.Abs(b.load)
	if err != nil {
		return err
	}
	if err := os.Setenv("CAPE_BENCH_HEAVY", path); err != nil {
		return err
	}
	v, err := jailBenchmarks(b, "./enclave/internal/handler", "HeavyImportSpare", "HeavyImport", "HeavyImportSource", "HeavyFresh")
	if err != nil {
		return err
	}
	b.add("import of numpy and scikit-learn, spare ready", "ms", "<= 0.05", "jail, call and end, without the connection; peer: a fresh Python", v[0], v[3])
	b.add("  the same, no spare", "ms", "<= 1.1", "with byte code, as by cape function vendor --bytecode", v[1], v[3])
	b.add("  the same, no spare, no byte code", "ms", "", "", v[2], v[3])
	return b.heavyRun(path, v[3])
}

const heavyApp = "import os, sys\nsys.path.insert(0, os.path.abspath('vendored'))\nimport numpy, sklearn.linear_model\n" +
	"def cape_handler(data):\n    return str(int(numpy.arange(4).sum()))\n"

// heavyRun runs such a function through the whole platform, each time when a spare waits for it.
func (b *bench) heavyRun(packages string, peer float64) error {
	p, err := b.platform()
	if err != nil {
		return err
	}
	defer p.stop()
	dir := filepath.Join(b.tmp, "heavy")
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	if out, err := exec.CommandContext(b.ctx, "cp", "-a", packages, filepath.Join(dir, "vendored")).CombinedOutput(); err != nil {
		return fmt.Errorf("%w\n%s", err, out)
	}
	if err := os.WriteFile(filepath.Join(dir, "app.py"), []byte(heavyApp), 0o644); err != nil {
		return err
	}
	d, err := p.deployDir(b, dir)
	if err != nil {
		return err
	}
	run := func() error {
		r, err := p.client.Run(b.ctx, client.Function{Name: d.ID}, []byte("x"))
		if err == nil && string(r.Output) != "6" {
			err = fmt.Errorf("it answered %q", r.Output)
		}
		return err
	}
	if err := run(); err != nil { // after which it is known for heavy
		return err
	}
	var all []time.Duration
	for range 7 {
		time.Sleep(time.Duration(10*peer)*time.Millisecond + time.Second) // in which a spare is made, from sources alone
		begin := time.Now()
		if err := run(); err != nil {
			return err
		}
		all = append(all, time.Since(begin))
	}
	b.add("whole run, numpy and scikit-learn, a spare ready", "ms", "<= 0.05", "client included; peer: a fresh Python that imports them and calls it", ms(middle(all)), peer)
	return nil
}
