package store

import (
	"bytes"
	"context"
	"crypto/sha256"
	"database/sql"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"math"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"testing/iotest"
	"time"

	"github.com/google/go-cmp/cmp"
	"gocloud.dev/blob/memblob"

	"github.com/cape-functions/cape/core/wire"
)

var (
	alice = wire.Subject{Iss: "issuer", Sub: "alice|1"}
	bob   = wire.Subject{Iss: "issuer", Sub: "bob|1"}
)

// clock advances by a second with every look.
func clock() func() time.Time {
	at := time.Unix(1_700_000_000, 0)
	return func() time.Time { at = at.Add(time.Second); return at }
}

func open(t *testing.T, dir string) *Store {
	t.Helper()
	db, err := OpenSQLite(filepath.Join(dir, "cape.db"))
	if err != nil {
		t.Fatal(err)
	}
	blobs, err := OpenFiles(filepath.Join(dir, "blobs"))
	if err != nil {
		t.Fatal(err)
	}
	s, err := New(t.Context(), Config{DB: db, Blobs: blobs, Now: clock(), Log: slog.New(slog.DiscardHandler)})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { s.Close() })
	return s
}

// head is a function as a runtime hands it over; change may alter the manifest.
func head(t *testing.T, owner wire.Subject, username, name string, change func(*wire.Manifest)) wire.StoredFunction {
	t.Helper()
	sum := sha256.Sum256([]byte(name))
	salt := sha256.Sum256(fmt.Append(nil, t.Name(), name, time.Now().UnixNano()))
	m := wire.Manifest{V: 2, Owner: owner, Name: name, Access: wire.AccessToken, Decrypt: wire.DecryptOwner, Checksum: sum[:], Salt: salt[:16]}
	if change != nil {
		change(&m)
	}
	b, err := m.Encode()
	if err != nil {
		t.Fatal(err)
	}
	return wire.StoredFunction{ID: wire.FunctionID(b), Manifest: b, Wrapped: []byte("wrapped"), KEK: "arn:kek", Username: username, Size: 100}
}

func put(t *testing.T, s *Store, h wire.StoredFunction, body string) *Function {
	t.Helper()
	f, err := s.PutFunction(t.Context(), h, strings.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	return f
}

func readBody(t *testing.T, s *Store, f *Function) string {
	t.Helper()
	r, err := s.Body(t.Context(), f)
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	b, err := io.ReadAll(r)
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

func files(t *testing.T, dir string) []string {
	t.Helper()
	var out []string
	err := filepath.WalkDir(filepath.Join(dir, "blobs"), func(path string, d fs.DirEntry, err error) error {
		if err == nil && !d.IsDir() {
			out = append(out, path)
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return out
}

func ids(functions []*Function) []string {
	out := []string{}
	for _, f := range functions {
		out = append(out, f.ID)
	}
	return out
}

func TestFunctionsAreKept(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "a b%41#?é'")
	if err := os.Mkdir(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	s := open(t, dir)
	h := head(t, alice, "alice", "echo", func(m *wire.Manifest) { m.Access, m.Seq = wire.AccessPublic, 7 })
	stored := put(t, s, h, "sealed")
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	s = open(t, dir)
	f, err := s.Function(t.Context(), h.ID)
	if err != nil {
		t.Fatal(err)
	}
	if d := cmp.Diff(stored, f, cmp.AllowUnexported(Function{})); d != "" {
		t.Error(d)
	}
	if d := cmp.Diff(h, f.Head()); d != "" {
		t.Error(d)
	}
	if f.Owner != alice || f.Name != "echo" || !f.Public || f.Seq != 7 || f.Stored != 6 || f.CreatedAt.IsZero() || f.Acct != nil {
		t.Errorf("%+v", f)
	}
	if got := readBody(t, s, f); got != "sealed" {
		t.Errorf("body %q", got)
	}
	if info, err := os.Stat(filepath.Join(dir, "cape.db")); err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("database: %v, %v", info.Mode(), err)
	}
}

func TestSignedFunction(t *testing.T) {
	s := open(t, t.TempDir())
	acct := sha256.Sum256([]byte("spki"))
	h := head(t, alice, "alice", "echo", func(m *wire.Manifest) { m.Acct = acct[:] })
	h.Sig, h.Key = []byte("signature"), []byte("spki")
	put(t, s, h, "")
	f, err := s.Function(t.Context(), h.ID)
	if err != nil {
		t.Fatal(err)
	}
	if d := cmp.Diff(h, f.Head()); d != "" || !bytes.Equal(f.Acct, acct[:]) {
		t.Error(d, f.Acct)
	}
}

func TestNewestOfAName(t *testing.T) {
	s := open(t, t.TempDir())
	seq := func(n uint64) func(*wire.Manifest) { return func(m *wire.Manifest) { m.Seq = n } }
	put(t, s, head(t, bob, "bob", "f", seq(99)), "")
	put(t, s, head(t, alice, "alice", "other", seq(99)), "")
	for _, c := range []struct {
		seq  uint64
		wins bool
	}{{0, true}, {0, true}, {5, true}, {3, false}, {5, true}} {
		before, _ := s.FunctionByName(t.Context(), "alice", "f")
		h := head(t, alice, "alice", "f", seq(c.seq))
		put(t, s, h, "")
		f, err := s.FunctionByName(t.Context(), "alice", "f")
		if err != nil {
			t.Fatal(err)
		}
		if (f.ID == h.ID) != c.wins || (!c.wins && f.ID != before.ID) {
			t.Errorf("seq %d: the name means %s of seq %d", c.seq, f.ID, f.Seq)
		}
	}
	for _, pair := range [][2]string{{"alice", "none"}, {"nobody", "f"}, {"", ""}} {
		if _, err := s.FunctionByName(t.Context(), pair[0], pair[1]); !errors.Is(err, ErrNotFound) {
			t.Errorf("%q: %v", pair, err)
		}
	}
}

func TestListing(t *testing.T) {
	s := open(t, t.TempDir())
	var want []string
	for i := range 5 {
		h := head(t, alice, "alice", fmt.Sprint("f", i), nil)
		put(t, s, h, "")
		put(t, s, head(t, bob, "bob", fmt.Sprint("f", i), nil), "")
		want = append([]string{h.ID}, want...)
	}
	for _, c := range []struct {
		limit, offset int
		want          []string
	}{{10, 0, want}, {2, 0, want[:2]}, {2, 3, want[3:]}, {2, 5, []string{}}, {1, 4, want[4:]}} {
		got, err := s.Functions(t.Context(), alice, c.limit, c.offset)
		if err != nil {
			t.Fatal(err)
		}
		if d := cmp.Diff(c.want, ids(got)); d != "" {
			t.Errorf("limit %d, offset %d: %s", c.limit, c.offset, d)
		}
	}
}

func TestDelete(t *testing.T) {
	dir := t.TempDir()
	s := open(t, dir)
	h := head(t, alice, "alice", "f", nil)
	put(t, s, h, "sealed")
	older := head(t, alice, "alice", "g", nil)
	put(t, s, older, "kept")
	if err := s.DeleteFunction(t.Context(), bob, h.ID); !errors.Is(err, ErrNotFound) {
		t.Fatalf("somebody else's: %v", err)
	}
	if err := s.DeleteFunction(t.Context(), alice, h.ID); err != nil {
		t.Fatal(err)
	}
	if err := s.DeleteFunction(t.Context(), alice, h.ID); !errors.Is(err, ErrNotFound) {
		t.Errorf("again: %v", err)
	}
	_, byID := s.Function(t.Context(), h.ID)
	_, byName := s.FunctionByName(t.Context(), "alice", "f")
	list, err := s.Functions(t.Context(), alice, 10, 0)
	if !errors.Is(byID, ErrNotFound) || !errors.Is(byName, ErrNotFound) || err != nil || len(list) != 1 {
		t.Errorf("still there: %v, %v, %d listed, %v", byID, byName, len(list), err)
	}
	if got := files(t, dir); len(got) != 1 {
		t.Errorf("bodies: %v", got)
	}
	if _, err := s.PutFunction(t.Context(), h, strings.NewReader("")); !errors.Is(err, ErrExists) {
		t.Errorf("its id was given away: %v", err)
	}
	var left int
	err = s.db.QueryRow(`SELECT LENGTH(manifest) + LENGTH(wrapped) FROM functions WHERE id = $1`, h.ID).Scan(&left)
	if err != nil || left != 0 {
		t.Errorf("%d bytes are left of a deleted function, %v", left, err)
	}
}

func TestPutRefuses(t *testing.T) {
	good := func() wire.StoredFunction { return head(t, alice, "alice", "f", nil) }
	edit := func(change func(*wire.StoredFunction)) wire.StoredFunction {
		h := good()
		change(&h)
		return h
	}
	acct := bytes.Repeat([]byte{1}, 32)
	for _, c := range []struct {
		name string
		head wire.StoredFunction
		want error
	}{
		{"another manifest's id", edit(func(h *wire.StoredFunction) { h.ID = good().ID }), ErrInvalid},
		{"no manifest", edit(func(h *wire.StoredFunction) { h.Manifest = nil }), ErrInvalid},
		{"garbage for a manifest", edit(func(h *wire.StoredFunction) { h.Manifest = []byte("x") }), ErrInvalid},
		{"no wrapped key", edit(func(h *wire.StoredFunction) { h.Wrapped = nil }), ErrInvalid},
		{"large wrapped key", edit(func(h *wire.StoredFunction) { h.Wrapped = make([]byte, wire.MaxWrapped+1) }), ErrInvalid},
		{"no KEK", edit(func(h *wire.StoredFunction) { h.KEK = "" }), ErrInvalid},
		{"signature without account", edit(func(h *wire.StoredFunction) { h.Sig, h.Key = []byte("s"), []byte("k") }), ErrInvalid},
		{"account without signature", head(t, alice, "alice", "f", func(m *wire.Manifest) { m.Acct = acct }), ErrInvalid},
		{"size out of range", edit(func(h *wire.StoredFunction) { h.Size = wire.MaxFunctionZip + 1 }), ErrInvalid},
		{"seq out of range", head(t, alice, "alice", "f", func(m *wire.Manifest) { m.Seq = math.MaxInt64 + 1 }), ErrInvalid},
		{"impossible username", edit(func(h *wire.StoredFunction) { h.Username = "../x" }), ErrInvalid},
		{"another issuer's username", head(t, wire.Subject{Iss: "other", Sub: "1"}, "alice", "f", nil), ErrInvalid},
	} {
		t.Run(c.name, func(t *testing.T) {
			dir := t.TempDir()
			s := open(t, dir)
			if err := s.PutUser(t.Context(), alice, "alice"); err != nil {
				t.Fatal(err)
			}
			if _, err := s.PutFunction(t.Context(), c.head, strings.NewReader("body")); !errors.Is(err, c.want) {
				t.Errorf("got %v", err)
			}
			if got := files(t, dir); len(got) != 0 {
				t.Errorf("left behind: %v", got)
			}
		})
	}
}

func TestPutIsAtomic(t *testing.T) {
	cause := errors.New("connection lost")
	for _, c := range []struct {
		name string
		body io.Reader
		want error
	}{
		{"lost at once", iotest.ErrReader(cause), cause},
		{"lost midway", io.MultiReader(strings.NewReader(strings.Repeat("x", 1<<20)), iotest.ErrReader(cause)), cause},
		{"too large", strings.NewReader(strings.Repeat("x", 3<<20)), ErrTooLarge},
		{"disk full", iotest.ErrReader(&fs.PathError{Op: "write", Path: "p", Err: syscall.ENOSPC}), ErrFull},
	} {
		t.Run(c.name, func(t *testing.T) {
			dir := t.TempDir()
			s := open(t, dir)
			s.maxBody = 2 << 20
			h := head(t, alice, "alice", "f", nil)
			if _, err := s.PutFunction(t.Context(), h, c.body); !errors.Is(err, c.want) {
				t.Errorf("got %v", err)
			}
			if _, err := s.Function(t.Context(), h.ID); !errors.Is(err, ErrNotFound) {
				t.Errorf("it is there: %v", err)
			}
			if got := files(t, dir); len(got) != 0 {
				t.Errorf("left behind: %v", got)
			}
			put(t, s, h, "whole") // nothing is in the way of another try
		})
	}
}

func TestDatabaseFull(t *testing.T) {
	dir := t.TempDir()
	s := open(t, dir)
	s.db.SetMaxOpenConns(1) // the pragma holds for one connection
	if _, err := s.db.Exec(`PRAGMA max_page_count = 1`); err != nil {
		t.Fatal(err)
	}
	var failed error
	for i := 0; failed == nil && i < 2000; i++ {
		_, failed = s.PutFunction(t.Context(), head(t, alice, "alice", fmt.Sprint("f", i), nil), strings.NewReader("x"))
	}
	if !errors.Is(failed, ErrFull) {
		t.Fatalf("got %v", failed)
	}
	list, err := s.Functions(t.Context(), alice, 10_000, 0)
	if err != nil || len(list) != len(files(t, dir)) {
		t.Errorf("%d functions, %d bodies, %v", len(list), len(files(t, dir)), err)
	}
}

func TestSweep(t *testing.T) {
	dir := t.TempDir()
	s := open(t, dir)
	kept := put(t, s, head(t, alice, "alice", "f", nil), "kept")
	orphan := func(key string) {
		path := filepath.Join(dir, "blobs", key)
		if err := errors.Join(os.MkdirAll(filepath.Dir(path), 0o700), os.WriteFile(path, []byte("x"), 0o600)); err != nil {
			t.Fatal(err)
		}
	}
	orphan("fn/aa/aa00")
	orphan("fn/ab/ab00.18d.tmp") // a writer that was killed
	// While a body is being written neither it nor its unfinished file goes.
	writing, end := io.Pipe()
	done := make(chan error, 1)
	late := head(t, alice, "alice", "late", nil)
	go func() { _, err := s.PutFunction(context.Background(), late, writing); done <- err }()
	if _, err := end.Write([]byte("first half, ")); err != nil {
		t.Fatal(err)
	}
	if n, err := s.Sweep(t.Context(), time.Now().Add(-time.Hour)); n != 0 || err != nil {
		t.Errorf("swept %d young bodies, %v", n, err)
	}
	if n, err := s.Sweep(t.Context(), time.Time{}); n != 2 || err != nil {
		t.Errorf("swept %d, %v", n, err)
	}
	if _, err := end.Write([]byte("second half")); err != nil {
		t.Fatal(err)
	}
	end.Close()
	if err := <-done; err != nil {
		t.Fatal(err)
	}
	if n, err := s.Sweep(t.Context(), time.Time{}); n != 0 || err != nil {
		t.Errorf("swept %d, %v", n, err)
	}
	f, err := s.Function(t.Context(), late.ID)
	if err != nil || readBody(t, s, f) != "first half, second half" || readBody(t, s, kept) != "kept" {
		t.Errorf("a function lost its body: %v", err)
	}
}

func TestBucketInMemory(t *testing.T) {
	db, err := OpenSQLite(filepath.Join(t.TempDir(), "db"))
	if err != nil {
		t.Fatal(err)
	}
	s, err := New(t.Context(), Config{DB: db, Blobs: Blobs{Bucket: memblob.OpenBucket(nil)}, Now: time.Now, Log: slog.New(slog.DiscardHandler)})
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	f := put(t, s, head(t, alice, "alice", "f", nil), "sealed")
	if got := readBody(t, s, f); got != "sealed" {
		t.Errorf("%q", got)
	}
}

func TestClosedDatabase(t *testing.T) {
	s := open(t, t.TempDir())
	s.Close()
	h := head(t, alice, "alice", "f", nil)
	if _, err := s.PutFunction(t.Context(), h, strings.NewReader("")); err == nil || errors.Is(err, ErrNotFound) {
		t.Error(err)
	}
	if err := s.Ping(t.Context()); err == nil {
		t.Error("a closed database answers")
	}
	if _, err := s.Key(t.Context(), alice, nil); err == nil || errors.Is(err, sql.ErrNoRows) || errors.Is(err, ErrNotFound) {
		t.Error(err)
	}
}

// A database that is gone, or another store's, costs no function its body.
func TestSweepSparesAnothersBodies(t *testing.T) {
	for name, marked := range map[string]bool{"marked": true, "from before there were marks": false} {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			s := open(t, dir)
			for i := range 3 {
				put(t, s, head(t, alice, "alice", fmt.Sprint(i), nil), "kept")
			}
			if marked {
				if n, err := s.Sweep(t.Context(), time.Time{}); n != 0 || err != nil {
					t.Fatalf("swept %d, %v", n, err)
				}
			}
			before := files(t, dir)
			s.Close()
			gone, err := filepath.Glob(filepath.Join(dir, "cape.db*"))
			if err != nil || len(gone) == 0 {
				t.Fatal(gone, err)
			}
			for _, path := range gone {
				if err := os.Remove(path); err != nil {
					t.Fatal(err)
				}
			}
			s = open(t, dir)
			if n, err := s.Sweep(t.Context(), time.Time{}); n != 0 || err != nil {
				t.Errorf("swept %d, %v", n, err)
			}
			if marked { // not even when the new database has functions
				before = append(before, put(t, s, head(t, alice, "alice", "new", nil), "new").blobKey)
				if n, err := s.Sweep(t.Context(), time.Time{}); n != 0 || err != nil {
					t.Errorf("swept %d, %v", n, err)
				}
			}
			if now := files(t, dir); len(now) != len(before) {
				t.Errorf("%d bodies of %d are left", len(now), len(before))
			}
		})
	}
}
