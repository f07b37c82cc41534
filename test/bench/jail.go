package main

import (
	"fmt"
	"os"
	"path/filepath"
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
	v, err := jailBenchmarks(b, "./enclave/internal/handler", "HeavyImportSpare", "HeavyImport", "HeavyFresh")
	if err != nil {
		return err
	}
	b.add("import of numpy and scikit-learn, spare ready", "ms", "<= 0.05", "jail, call and end, without the connection; peer: a fresh Python", v[0], v[2])
	b.add("  the same, no spare", "ms", "<= 1.1", "", v[1], v[2])
	return nil
}
