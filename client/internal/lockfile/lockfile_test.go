package lockfile_test

import (
	"bytes"
	"context"
	"errors"
	"os"
	"path/filepath"
	"runtime"
	"strconv"
	"sync"
	"testing"
	"time"

	"github.com/cape-functions/cape/client/internal/lockfile"
)

func TestLockExcludes(t *testing.T) {
	path := filepath.Join(t.TempDir(), "new", "count")
	var group sync.WaitGroup
	for range 10 {
		group.Go(func() {
			release, err := lockfile.Lock(t.Context(), path)
			if err != nil {
				t.Error(err)
				return
			}
			defer release()
			text, err := lockfile.Read(path, 100)
			if err != nil {
				t.Error(err)
			}
			n, _ := strconv.Atoi(string(text)) // nothing is zero
			if err := lockfile.Write(path, strconv.AppendInt(nil, int64(n+1), 10)); err != nil {
				t.Error(err)
			}
		})
	}
	group.Wait()
	if text, err := lockfile.Read(path, 100); err != nil || string(text) != "10" {
		t.Errorf("counted %s, %v", text, err)
	}
}

func TestLockHonoursContext(t *testing.T) {
	path := filepath.Join(t.TempDir(), "f")
	release, err := lockfile.Lock(t.Context(), path)
	if err != nil {
		t.Fatal(err)
	}
	defer release()
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	if _, err := lockfile.Lock(ctx, path); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("error %v, want DeadlineExceeded", err)
	}
}

func TestReadAndWrite(t *testing.T) {
	path := filepath.Join(t.TempDir(), "dir", "f")
	if data, err := lockfile.Read(path, 10); data != nil || err != nil {
		t.Errorf("absent: %q, %v", data, err)
	}
	for _, text := range []string{"first", "second", ""} {
		if err := lockfile.Write(path, []byte(text)); err != nil {
			t.Fatal(err)
		}
		if data, err := lockfile.Read(path, 10); err != nil || string(data) != text {
			t.Errorf("%q, %v", data, err)
		}
	}
	if info, err := os.Stat(path); err != nil || runtime.GOOS != "windows" && info.Mode().Perm() != 0o600 {
		t.Errorf("mode %v, %v", info.Mode(), err)
	}
	if err := lockfile.Write(path, bytes.Repeat([]byte("a"), 11)); err != nil {
		t.Fatal(err)
	}
	if _, err := lockfile.Read(path, 10); !errors.Is(err, lockfile.ErrTooLarge) {
		t.Errorf("error %v, want ErrTooLarge", err)
	}
	if left, err := os.ReadDir(filepath.Dir(path)); err != nil || len(left) != 1 {
		t.Errorf("left behind: %v, %v", left, err)
	}
}

func TestWriteFollowsLink(t *testing.T) {
	dir := t.TempDir()
	real, link := filepath.Join(dir, "real"), filepath.Join(dir, "link")
	if err := os.WriteFile(real, []byte("old"), 0o644); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink(real, link); err != nil {
		t.Fatal(err)
	}
	if err := lockfile.Write(link, []byte("new")); err != nil {
		t.Fatal(err)
	}
	if data, err := os.ReadFile(real); err != nil || string(data) != "new" {
		t.Errorf("%q, %v", data, err)
	}
	if info, err := os.Lstat(link); err != nil || info.Mode()&os.ModeSymlink == 0 {
		t.Error("the link is a file now")
	}
}
