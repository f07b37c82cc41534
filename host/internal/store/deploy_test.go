package store

import (
	"errors"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

func TestURLs(t *testing.T) {
	dir := t.TempDir()
	db, blobs, err := OpenURLs("sqlite://"+filepath.Join(dir, "cape.db"), "file://"+filepath.Join(dir, "blobs"))
	if err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(db.Close(), blobs.Bucket.Close()); err != nil {
		t.Error(err)
	}
	for _, bad := range [][2]string{
		{"postgres://u:hunter2@db/cape", "file:///b"}, {"sqlite:///a", "s3://bucket"}, {"sqlite:a.db", "file:///b"}, {"sqlite://host/a", "file:///b"},
		{"a.db", "file:///b"}, {"sqlite:///a?x=1", "file:///b"}, {"sqlite:///a", ""}, {"sqlite:///a", "b"}, {"", "file:///b"}, {":// hunter2", "file:///b"},
	} {
		err := CheckURLs(bad[0], bad[1])
		if !errors.Is(err, ErrURL) {
			t.Errorf("%q: %v", bad, err)
			continue
		}
		if strings.Contains(err.Error(), "hunter2") {
			t.Errorf("the error holds a password: %v", err)
		}
	}
}

func TestWorkers(t *testing.T) {
	s := open(t, t.TempDir())
	now := time.Now()
	s.now = func() time.Time { return now }
	ctx := t.Context()
	for _, w := range []string{"b", "a", "b"} {
		if err := s.PutWorker(ctx, w, []byte("body of "+w)); err != nil {
			t.Fatal(err)
		}
	}
	list := func() string {
		t.Helper()
		all, err := s.Workers(ctx, 15*time.Second)
		if err != nil {
			t.Fatal(err)
		}
		var out []string
		for _, b := range all {
			out = append(out, string(b))
		}
		return strings.Join(out, ", ")
	}
	if got := list(); got != "body of a, body of b" {
		t.Errorf("%q", got)
	}
	now = now.Add(10 * time.Second)
	if err := s.PutWorker(ctx, "a", []byte("a again")); err != nil {
		t.Fatal(err)
	}
	now = now.Add(6 * time.Second)
	if got := list(); got != "a again" {
		t.Errorf("after b fell silent: %q", got)
	}
	if err := s.SweepWorkers(ctx, 15*time.Second); err != nil {
		t.Fatal(err)
	}
	now = now.Add(-6 * time.Second)
	if got := list(); got != "a again" {
		t.Errorf("after a sweep: %q", got)
	}
	if err := s.DropWorker(ctx, "a"); err != nil {
		t.Fatal(err)
	}
	if got := list(); got != "" {
		t.Errorf("after the last left: %q", got)
	}
}
