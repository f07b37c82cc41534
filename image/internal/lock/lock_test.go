package lock

import (
	"errors"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

func sample() *Lock {
	sum := strings.Repeat("0a", 32)
	return &Lock{
		Renewed: time.Date(2026, 1, 2, 0, 0, 0, 0, time.UTC), Go: "go1.26.8", Kernel: sum, Base: sum,
		Source:    Package{"linux-source-6.12", "6.12.1-1~deb12u1", "all", sum},
		Packages:  []Package{{"libc6", "2.36-9+deb12u14", "amd64", sum}, {"libffi8", "3.4.4-1", "amd64", sum}},
		Toolchain: []Package{{"bison", "2:3.8.2+dfsg-1+b1", "amd64", sum}},
	}
}

func TestRoundTrip(t *testing.T) {
	path := filepath.Join(t.TempDir(), "lock.json")
	if err := sample().Write(path); err != nil {
		t.Fatal(err)
	}
	got, err := Read(path)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(sample(), got); diff != "" {
		t.Error(diff)
	}
}

func TestRefused(t *testing.T) {
	path := filepath.Join(t.TempDir(), "lock.json")
	for name, spoil := range map[string]func(*Lock){
		"no date":              func(l *Lock) { l.Renewed = time.Time{} },
		"a version with space": func(l *Lock) { l.Packages[0].Version = "1 2" },
		"an option for apt":    func(l *Lock) { l.Packages[0].Name = "-oDir=/" },
		"another architecture": func(l *Lock) { l.Packages[0].Arch = "arm64" },
		"a short digest":       func(l *Lock) { l.Packages[0].SHA256 = "00" },
		"a package twice":      func(l *Lock) { l.Packages[1].Name = "libc6" },
		"no packages":          func(l *Lock) { l.Packages = nil },
		"no toolchain":         func(l *Lock) { l.Toolchain = nil },
		"no kernel":            func(l *Lock) { l.Kernel = "" },
		"no compiler":          func(l *Lock) { l.Go = "local" },
	} {
		l := sample()
		spoil(l)
		err := l.Write(path)
		if err == nil {
			_, err = Read(path)
		}
		if !errors.Is(err, ErrInvalid) {
			t.Errorf("%s: %v", name, err)
		}
	}
	for name, text := range map[string]string{
		"unknown field": `{"x":1}`, "nothing": ``, "two objects": `{}{}`, "too long": strings.Repeat(" ", maxSize+1),
	} {
		if _, err := parse([]byte(text)); !errors.Is(err, ErrInvalid) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// TestCommitted: the file that this project builds from is one that it reads.
func TestCommitted(t *testing.T) {
	if _, err := Read(filepath.Join("..", "..", "lock.json")); err != nil {
		t.Error(err)
	}
}
