package vault_test

import (
	"errors"
	"sync"
	"testing"

	"github.com/cape-functions/cape/core/wire"
	"github.com/cape-functions/cape/enclave/internal/vault"
)

func TestTwoFirstSessionsEndWithOneKey(t *testing.T) {
	f := setup(t)
	other := setup(t, func(c *vault.Config) { c.Dial, c.Keys = f.host.Dial, f.keys }) // another enclave of the same host
	keys := make(chan *vault.CapeKey, 16)
	var wg sync.WaitGroup
	for i := range 16 {
		v := f.vault
		if i%2 == 0 {
			v = other.vault
		}
		wg.Go(func() {
			k, err := v.EnsureKey(t.Context(), vault.LegacyUser(alice()), alice(), "alice")
			if err != nil {
				t.Error(err)
				return
			}
			keys <- k
		})
	}
	wg.Wait()
	close(keys)
	first := <-keys
	for k := range keys {
		if k.Hash != first.Hash {
			t.Fatal("two keys for one account")
		}
	}
	if len(f.host.Keys) != 1 {
		t.Errorf("the host has %d keys", len(f.host.Keys))
	}
	if n := f.keys.Pairs(); n > 2 {
		t.Errorf("%d pairs were made by two enclaves", n)
	}
}

func TestKeysAreNotMadeByAsking(t *testing.T) {
	f := setup(t)
	if _, err := f.vault.Key(t.Context(), vault.LegacyUser(alice())); !errors.Is(err, vault.ErrNotFound) {
		t.Errorf("legacy key: %v", err)
	}
	if _, err := f.vault.KeyOfUser(t.Context(), "alice", true); !errors.Is(err, vault.ErrNotFound) {
		t.Errorf("key of a user: %v", err)
	}
	if f.keys.Pairs() != 0 {
		t.Error("a pair was made")
	}
}

func TestKeysAreRemembered(t *testing.T) {
	f := setup(t)
	made, err := f.vault.EnsureKey(t.Context(), vault.LegacyUser(alice()), alice(), "alice")
	if err != nil {
		t.Fatal(err)
	}
	fresh := setup(t, func(c *vault.Config) { c.Dial, c.Keys = f.host.Dial, f.keys })
	for range 3 {
		got, err := fresh.vault.Key(t.Context(), vault.LegacyUser(alice()))
		if err != nil {
			t.Fatal(err)
		}
		if got.Hash != made.Hash {
			t.Fatal("another key")
		}
	}
	byName, err := fresh.vault.KeyOfUser(t.Context(), "alice", true)
	if err != nil || byName.Hash != made.Hash {
		t.Errorf("by name: %v", err)
	}
	if n := f.keys.Opens(); n != 1 {
		t.Errorf("unwrapped %d times", n)
	}
}

func TestKeysOfOthersAreRefused(t *testing.T) {
	tests := []struct {
		name string
		lie  func(f *fixture, mine, other *wire.StoredKey)
		want error
	}{
		{"other owner's record", func(f *fixture, m, o *wire.StoredKey) { *m = *o }, vault.ErrWrongOwner},
		{"other owner's key", func(f *fixture, m, o *wire.StoredKey) { m.Wrapped = o.Wrapped }, vault.ErrWrapped},
		{"other KEK", func(f *fixture, m, o *wire.StoredKey) { m.KEK += "0" }, vault.ErrKEK},
		{"account", func(f *fixture, m, o *wire.StoredKey) { m.Acct = make([]byte, 32) }, vault.ErrWrongAccount},
		{"no key", func(f *fixture, m, o *wire.StoredKey) { m.Wrapped = nil }, vault.ErrHead},
		{"KMS gone", func(f *fixture, m, o *wire.StoredKey) { f.keys.Down = true }, vault.ErrUnavailable},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			f := setup(t)
			for _, s := range []wire.Subject{alice(), bob()} {
				if _, err := f.vault.EnsureKey(t.Context(), vault.LegacyUser(s), s, s.Sub[:3]); err != nil {
					t.Fatal(err)
				}
			}
			tt.lie(f, f.host.Keys[alice()], f.host.Keys[bob()])
			fresh := setup(t, func(c *vault.Config) { c.Dial, c.Keys = f.host.Dial, f.keys })
			if _, err := fresh.vault.Key(t.Context(), vault.LegacyUser(alice())); !errors.Is(err, tt.want) {
				t.Errorf("got %v, want %v", err, tt.want)
			}
			if _, err := fresh.vault.EnsureKey(t.Context(), vault.LegacyUser(alice()), alice(), "alice"); !errors.Is(err, tt.want) {
				t.Errorf("ensuring: got %v, want %v", err, tt.want)
			}
		})
	}
}
