package keystore

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
)

func open(t *testing.T, dir string) *Store {
	t.Helper()
	s, err := Open(dir)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = s.Close() })
	return s
}

func TestRecordsSurviveRestart(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "kms")
	s := open(t, dir)
	secret := []byte("a secret that must not lie on disk in plain")
	for _, name := range []string{"key-1", "key-2", "aliases"} {
		if err := s.Put(name, append(bytes.Clone(secret), name...)); err != nil {
			t.Fatal(err)
		}
	}
	if err := s.Put("key-1", []byte("new")); err != nil {
		t.Fatal(err)
	}
	if err := s.Delete("key-2"); err != nil {
		t.Fatal(err)
	}
	if err := s.Delete("key-2"); err != nil {
		t.Errorf("deleting twice: %v", err)
	}
	before, err := s.Key("use")
	if err != nil {
		t.Fatal(err)
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}

	s = open(t, dir)
	if got, err := s.Get("key-1"); err != nil || string(got) != "new" {
		t.Errorf("key-1 is %q, %v", got, err)
	}
	if _, err := s.Get("key-2"); !errors.Is(err, ErrNotFound) {
		t.Errorf("deleted record: %v", err)
	}
	if names, err := s.List("key-"); err != nil || len(names) != 1 || names[0] != "key-1" {
		t.Errorf("list is %v, %v", names, err)
	}
	after, err := s.Key("use")
	if err != nil || !bytes.Equal(before, after) {
		t.Error("derived key changed")
	}
	if other, _ := s.Key("other use"); bytes.Equal(after, other) {
		t.Error("two uses share a key")
	}
	err = filepath.WalkDir(dir, func(path string, d os.DirEntry, err error) error {
		if err != nil {
			return err
		}
		info, err := d.Info()
		if err != nil {
			return err
		}
		if info.Mode().Perm()&0o077 != 0 {
			t.Errorf("%s has mode %v", path, info.Mode())
		}
		if d.Type().IsRegular() {
			if b, _ := os.ReadFile(path); bytes.Contains(b, secret) {
				t.Errorf("%s holds the secret in plain", path)
			}
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
}

func TestOpenRefuses(t *testing.T) {
	for _, tc := range []struct {
		name   string
		damage func(t *testing.T, dir string)
		want   error
	}{
		{"master key readable by others", func(t *testing.T, dir string) {
			if err := os.Chmod(filepath.Join(dir, masterFile), 0o640); err != nil {
				t.Fatal(err)
			}
		}, ErrPermissions},
		{"master key cut short", func(t *testing.T, dir string) {
			if err := os.Truncate(filepath.Join(dir, masterFile), 31); err != nil {
				t.Fatal(err)
			}
		}, ErrCorrupt},
		{"master key lost", func(t *testing.T, dir string) {
			if err := os.Remove(filepath.Join(dir, masterFile)); err != nil {
				t.Fatal(err)
			}
		}, ErrCorrupt},
	} {
		t.Run(tc.name, func(t *testing.T) {
			dir := t.TempDir()
			s := open(t, dir)
			if err := s.Put("key-1", []byte("x")); err != nil {
				t.Fatal(err)
			}
			if err := s.Close(); err != nil {
				t.Fatal(err)
			}
			tc.damage(t, dir)
			if _, err := Open(dir); !errors.Is(err, tc.want) {
				t.Errorf("got %v, want %v", err, tc.want)
			}
			if _, err := os.Stat(filepath.Join(dir, recordsDir, "key-1")); err != nil {
				t.Errorf("record is gone: %v", err)
			}
		})
	}
}

func TestSecondProcessIsRefused(t *testing.T) {
	dir := t.TempDir()
	s := open(t, dir)
	if _, err := Open(dir); !errors.Is(err, ErrInUse) {
		t.Fatalf("second open: %v", err)
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	open(t, dir)
}

func TestChangedRecordsAreRefused(t *testing.T) {
	dir := t.TempDir()
	s := open(t, dir)
	for _, n := range []string{"key-1", "key-2"} {
		if err := s.Put(n, []byte("content of "+n)); err != nil {
			t.Fatal(err)
		}
	}
	path := func(n string) string { return filepath.Join(dir, recordsDir, n) }
	sealed, err := os.ReadFile(path("key-1"))
	if err != nil {
		t.Fatal(err)
	}
	for i := range sealed {
		bad := bytes.Clone(sealed)
		bad[i] ^= 1
		if err := os.WriteFile(path("key-1"), bad, 0o600); err != nil {
			t.Fatal(err)
		}
		if _, err := s.Get("key-1"); !errors.Is(err, ErrCorrupt) {
			t.Fatalf("byte %d changed: %v", i, err)
		}
	}
	for _, n := range []int{0, 1, SealOverhead - 1, len(sealed) - 1} {
		if err := os.WriteFile(path("key-1"), sealed[:n], 0o600); err != nil {
			t.Fatal(err)
		}
		if _, err := s.Get("key-1"); !errors.Is(err, ErrCorrupt) {
			t.Errorf("cut to %d bytes: %v", n, err)
		}
	}
	// One record in place of another.
	if err := os.WriteFile(path("key-2"), sealed, 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := s.Get("key-2"); !errors.Is(err, ErrCorrupt) {
		t.Errorf("swapped record: %v", err)
	}
}

func TestUnfinishedWritesAreRemoved(t *testing.T) {
	dir := t.TempDir()
	s := open(t, dir)
	if err := s.Put("key-1", []byte("old")); err != nil {
		t.Fatal(err)
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	left := filepath.Join(dir, recordsDir, tempPrefix+"123")
	if err := os.WriteFile(left, []byte("half"), 0o600); err != nil {
		t.Fatal(err)
	}
	s = open(t, dir)
	if _, err := os.Stat(left); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("unfinished write is still there: %v", err)
	}
	if got, err := s.Get("key-1"); err != nil || string(got) != "old" {
		t.Errorf("record is %q, %v", got, err)
	}
}

func TestNames(t *testing.T) {
	s := open(t, t.TempDir())
	for _, n := range []string{"", ".", "..", "../master.key", "a/b", "A", ".tmp-1", "a\x00", strings.Repeat("a", 129)} {
		_, err := s.Get(n)
		if errs := []error{s.Put(n, nil), err, s.Delete(n)}; !errors.Is(errs[0], ErrName) || !errors.Is(errs[1], ErrName) || !errors.Is(errs[2], ErrName) {
			t.Errorf("name %q: %v", n, errs)
		}
	}
}

func TestConcurrentWriters(t *testing.T) {
	s := open(t, t.TempDir())
	var wg sync.WaitGroup
	for i := range 8 {
		wg.Go(func() {
			for j := range 5 {
				want := fmt.Sprint("writer ", i, " round ", j)
				if err := s.Put("shared", []byte(want)); err != nil {
					t.Error(err)
				}
				if got, err := s.Get("shared"); err != nil || !strings.HasPrefix(string(got), "writer ") {
					t.Errorf("%q, %v", got, err)
				}
			}
		})
	}
	wg.Wait()
}

func TestSealBindsLabelAndData(t *testing.T) {
	key, other := make([]byte, 32), bytes.Repeat([]byte{1}, 32)
	sealed, err := Seal(key, "label", []byte("aad"), []byte("plain"))
	if err != nil {
		t.Fatal(err)
	}
	if got, err := Unseal(key, "label", []byte("aad"), sealed); err != nil || string(got) != "plain" {
		t.Fatalf("%q, %v", got, err)
	}
	for name, f := range map[string]func() ([]byte, error){
		"other key":   func() ([]byte, error) { return Unseal(other, "label", []byte("aad"), sealed) },
		"other label": func() ([]byte, error) { return Unseal(key, "labe", []byte("laad"), sealed) },
		"other data":  func() ([]byte, error) { return Unseal(key, "label", []byte("aae"), sealed) },
	} {
		if _, err := f(); !errors.Is(err, ErrCorrupt) {
			t.Errorf("%s: %v", name, err)
		}
	}
}
