package store

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/cape-functions/cape/core/wire"
)

func TestUsernames(t *testing.T) {
	s := open(t, t.TempDir())
	key := func(u wire.Subject, username string) error {
		_, _, err := s.PutKey(t.Context(), wire.StoredKey{Owner: u, Username: username, Wrapped: []byte(u.Sub), KEK: "k"})
		return err
	}
	owner := func(username string) string {
		k, err := s.KeyOfUser(t.Context(), username, false)
		if err != nil && !errors.Is(err, ErrNotFound) {
			t.Fatal(err)
		}
		return k.Owner.Sub
	}
	if err := errors.Join(key(alice, "alice"), key(alice, ""), key(bob, "bob")); err != nil {
		t.Fatal(err)
	}
	if owner("alice") != alice.Sub || owner("bob") != bob.Sub {
		t.Error("a token without a name took the name away")
	}
	if err := s.PutUser(t.Context(), alice, "alicia"); err != nil || owner("alicia") != alice.Sub || owner("alice") != "" {
		t.Errorf("renamed: %v", err)
	}
	if err := s.PutUser(t.Context(), bob, "alicia"); err != nil || owner("alicia") != bob.Sub || owner("bob") != "" {
		t.Errorf("given to another: %v", err)
	}
	if err := s.PutUser(t.Context(), wire.Subject{Iss: "other", Sub: "x"}, "alicia"); !errors.Is(err, ErrInvalid) || owner("alicia") != bob.Sub {
		t.Errorf("taken by another issuer: %v", err)
	}
	for _, u := range []wire.Subject{{}, {Iss: "i"}, {Sub: "s"}, {Iss: strings.Repeat("i", 513), Sub: "s"}} {
		if err := s.PutUser(t.Context(), u, "n"); !errors.Is(err, ErrInvalid) {
			t.Errorf("%+v: %v", u, err)
		}
	}
}

func TestFirstKeyCounts(t *testing.T) {
	s := open(t, t.TempDir())
	var wg sync.WaitGroup
	var mu sync.Mutex
	created := 0
	seen := map[string]bool{}
	for i := range 16 {
		wg.Go(func() {
			k, first, err := s.PutKey(context.Background(), wire.StoredKey{Owner: alice, Username: "alice", Wrapped: fmt.Append(nil, i), KEK: "k"})
			if err != nil {
				t.Error(err)
			}
			mu.Lock()
			defer mu.Unlock()
			seen[string(k.Wrapped)] = true
			if first {
				created++
			}
		})
	}
	wg.Wait()
	if created != 1 || len(seen) != 1 {
		t.Errorf("%d writers were first, %d keys were handed out", created, len(seen))
	}
	k, err := s.Key(t.Context(), alice, nil)
	if err != nil || !seen[string(k.Wrapped)] || k.Username != "alice" || k.Acct != nil {
		t.Errorf("%+v, %v", k, err)
	}
	acct := bytes.Repeat([]byte{7}, 32)
	if _, first, err := s.PutKey(t.Context(), wire.StoredKey{Owner: alice, Acct: acct, Wrapped: []byte("w"), KEK: "k"}); !first || err != nil {
		t.Errorf("an account's key is another one: %v", err)
	}
	if _, err := s.Key(t.Context(), bob, nil); !errors.Is(err, ErrNotFound) {
		t.Errorf("nobody's key: %v", err)
	}
	for name, k := range map[string]wire.StoredKey{
		"empty": {Owner: alice, KEK: "k"}, "no KEK": {Owner: alice, Wrapped: []byte("w")}, "large": {Owner: alice, Wrapped: make([]byte, wire.MaxWrapped+1), KEK: "k"},
		"account": {Owner: alice, Acct: []byte("short"), Wrapped: []byte("w"), KEK: "k"}, "owner": {Wrapped: []byte("w"), KEK: "k"},
	} {
		if _, _, err := s.PutKey(t.Context(), k); !errors.Is(err, ErrInvalid) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestAccountsHaveOneKey(t *testing.T) {
	s := open(t, t.TempDir())
	acct, second := bytes.Repeat([]byte{7}, 32), bytes.Repeat([]byte{8}, 32)
	put := func(u wire.Subject, name string, acct []byte, wrapped string) (wire.StoredKey, bool) {
		t.Helper()
		k, created, err := s.PutKey(t.Context(), wire.StoredKey{Owner: u, Username: name, Acct: acct, Wrapped: []byte(wrapped), KEK: "k"})
		if err != nil {
			t.Fatal(err)
		}
		return k, created
	}
	if k, err := s.KeyOfUser(t.Context(), "alice", true); !errors.Is(err, ErrNotFound) {
		t.Errorf("%+v, %v", k, err)
	}
	put(alice, "alice", nil, "legacy")
	if k, err := s.KeyOfUser(t.Context(), "alice", true); err != nil || string(k.Wrapped) != "legacy" {
		t.Errorf("no account yet: %+v, %v", k, err)
	}
	put(alice, "alice", acct, "first")
	if k, created := put(bob, "bob", acct, "other"); created || string(k.Wrapped) != "first" || k.Owner != alice {
		t.Errorf("an account that two users have: %+v", k)
	}
	if k, err := s.Key(t.Context(), wire.Subject{}, acct); err != nil || string(k.Wrapped) != "first" || !bytes.Equal(k.Acct, acct) {
		t.Errorf("%+v, %v", k, err)
	}
	s.now = func() time.Time { return time.Now().Add(time.Hour) }
	put(alice, "alice", second, "newer")
	if k, err := s.KeyOfUser(t.Context(), "alice", true); err != nil || string(k.Wrapped) != "newer" || !bytes.Equal(k.Acct, second) {
		t.Errorf("%+v, %v", k, err)
	}
	if k, err := s.KeyOfUser(t.Context(), "alice", false); err != nil || string(k.Wrapped) != "legacy" || k.Acct != nil {
		t.Errorf("%+v, %v", k, err)
	}
}

func TestMeta(t *testing.T) {
	s := open(t, t.TempDir())
	if err := s.SetMeta(t.Context(), map[string][]byte{"a": []byte("1"), "b": nil}); err != nil {
		t.Fatal(err)
	}
	if err := s.SetMeta(t.Context(), map[string][]byte{"a": []byte("2")}); err != nil {
		t.Fatal(err)
	}
	got, err := s.Meta(t.Context(), "a", "b", "c")
	if d := cmp.Diff(map[string][]byte{"a": []byte("2"), "b": nil}, got); err != nil || d != "" {
		t.Errorf("%v %s", err, d)
	}
}

func TestMigrations(t *testing.T) {
	dir := t.TempDir()
	open(t, dir).Close()
	s := open(t, dir) // a second time there is nothing to do
	if _, err := s.db.Exec(`INSERT INTO schema_version (version) VALUES (1000)`); err != nil {
		t.Fatal(err)
	}
	s.Close()
	db, err := OpenSQLite(filepath.Join(dir, "cape.db"))
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close()
	if _, err := New(t.Context(), Config{DB: db}); !errors.Is(err, ErrNewer) {
		t.Errorf("a later version's database: %v", err)
	}
}

func TestTwoProcesses(t *testing.T) {
	dir := t.TempDir()
	a, b := open(t, dir), open(t, dir)
	var wg sync.WaitGroup
	for i, s := range []*Store{a, b} {
		wg.Go(func() {
			for j := range 20 {
				h := head(t, alice, "alice", fmt.Sprintf("f-%d-%d", i, j), nil)
				if _, err := s.PutFunction(context.Background(), h, strings.NewReader("x")); err != nil {
					t.Error(err)
				}
			}
		})
	}
	wg.Wait()
	if list, err := a.Functions(t.Context(), alice, 100, 0); err != nil || len(list) != 40 {
		t.Errorf("%d functions, %v", len(list), err)
	}
}

// What SQLite alone understands must not get into statements.
func TestSQLIsPortable(t *testing.T) {
	var text strings.Builder
	for _, pattern := range []string{"*.go", "migrations/*.sql"} {
		names, err := filepath.Glob(pattern)
		if err != nil || len(names) == 0 {
			t.Fatal(pattern, err)
		}
		for _, name := range names {
			if name == "sqlite.go" || strings.HasSuffix(name, "_test.go") {
				continue
			}
			b, err := os.ReadFile(name)
			if err != nil {
				t.Fatal(err)
			}
			text.Write(b)
		}
	}
	for _, word := range []string{"AUTOINCREMENT", "PRAGMA", "INSERT OR", "REPLACE INTO", "WITHOUT ROWID", "datetime(", "strftime(", "ifnull(", "rowid", " BLOB", "DATETIME", "GLOB ", " = ?", "(?"} {
		if strings.Contains(text.String(), word) {
			t.Errorf("%q stands in the SQL", word)
		}
	}
}

func TestAddMetaAddsAllOrNothing(t *testing.T) {
	s := open(t, t.TempDir())
	ctx := t.Context()
	if ok, err := s.AddMeta(ctx, map[string][]byte{"a": []byte("1")}); !ok || err != nil {
		t.Fatal(ok, err)
	}
	if ok, err := s.AddMeta(ctx, map[string][]byte{"b": []byte("2"), "a": []byte("3")}); ok || err != nil {
		t.Fatal(ok, err)
	}
	got, err := s.Meta(ctx, "a", "b")
	if err != nil || string(got["a"]) != "1" || len(got) != 1 {
		t.Errorf("%q, %v", got, err)
	}
}
