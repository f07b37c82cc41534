package vault_test

import (
	"bytes"
	"errors"
	"testing"

	"github.com/cape-functions/cape/core/account"
	"github.com/cape-functions/cape/core/wire"
	"github.com/cape-functions/cape/enclave/internal/vault"
	"github.com/cape-functions/cape/enclave/internal/vault/testkit"
)

func TestSignedFunctionsComeBack(t *testing.T) {
	f := setup(t)
	zip := content(t, 100)
	for _, access := range []wire.Access{wire.AccessPublic, wire.AccessToken, wire.AccessGrant} {
		m := manifest(zip, alice(), "echo")
		m.Access = access
		d := signed(t, newAccount(t), m)
		r, err := f.vault.ByID(t.Context(), f.storeAs(d, zip))
		if err != nil {
			t.Fatal(err)
		}
		if !bytes.Equal(r.Raw, d.Manifest) || !bytes.Equal(r.Sig, d.Sig) || !bytes.Equal(r.Key, d.Key) {
			t.Error("another manifest, signature or key")
		}
		fn, err := f.vault.Load(t.Context(), r, make(vault.Turn, 1))
		if err != nil {
			t.Fatal(err)
		}
		fn.Release()
	}
}

// TestLiesAboutAccounts: what the host says about whose a function is counts for nothing.
func TestLiesAboutAccounts(t *testing.T) {
	key, other := newAccount(t), newAccount(t)
	tests := []struct {
		name string
		lie  func(t *testing.T, m *testkit.Stored)
		want error
	}{
		{"signature stripped", func(t *testing.T, m *testkit.Stored) { m.Head.Sig = nil }, vault.ErrSigned},
		{"signature and key stripped", func(t *testing.T, m *testkit.Stored) { m.Head.Sig, m.Head.Key = nil, nil }, vault.ErrSigned},
		{"signature changed", func(t *testing.T, m *testkit.Stored) { m.Head.Sig[0] ^= 1 }, vault.ErrSigned},
		{"signature of another manifest", func(t *testing.T, m *testkit.Stored) {
			m.Head.Sig = signed(t, key, manifest(nil, alice(), "echo")).Sig
		}, vault.ErrSigned},
		{"another account's key", func(t *testing.T, m *testkit.Stored) {
			p := other.Public()
			m.Head.Key = p[:]
		}, vault.ErrSigned},
		{"signed anew by another account", func(t *testing.T, m *testkit.Stored) {
			p := other.Public()
			m.Head.Key, m.Head.Sig = p[:], resign(t, other, m.Head.Manifest)
		}, vault.ErrWrongID},
		{"account taken out", func(t *testing.T, m *testkit.Stored) {
			p, err := wire.ParseManifest(m.Head.Manifest)
			if err != nil {
				t.Fatal(err)
			}
			p.Acct = nil
			m.Head.Manifest, m.Head.Sig, m.Head.Key = encode(t, p), nil, nil
		}, vault.ErrWrongID},
		{"account taken out, id fitted", func(t *testing.T, m *testkit.Stored) {
			p, err := wire.ParseManifest(m.Head.Manifest)
			if err != nil {
				t.Fatal(err)
			}
			p.Acct = nil
			m.Head.Manifest, m.Head.Sig, m.Head.Key = encode(t, p), nil, nil
			m.Head.ID = wire.FunctionID(m.Head.Manifest)
		}, vault.ErrWrapped},
		{"access by grant without an account", func(t *testing.T, m *testkit.Stored) {
			p := manifest(nil, alice(), "echo")
			p.Access = wire.AccessGrant
			raw, err := wire.Marshal(p)
			if err != nil {
				t.Fatal(err)
			}
			m.Head.Manifest, m.Head.Sig, m.Head.Key, m.Head.ID = raw, nil, nil, wire.FunctionID(raw)
		}, vault.ErrManifest},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			f := setup(t)
			zip := content(t, 100)
			id := f.storeAs(signed(t, key, manifest(zip, alice(), "echo")), zip)
			stored := f.host.Functions[id]
			tt.lie(t, stored)
			f.host.Functions[stored.Head.ID] = stored
			if fn, err := f.load(stored.Head.ID); !errors.Is(err, tt.want) {
				t.Errorf("got %v, %v, want %v", fn, err, tt.want)
			}
		})
	}
}

// resign puts another account into a manifest and signs that; the manifest as it was goes
// with it.
func resign(t *testing.T, key *account.Key, raw []byte) []byte {
	t.Helper()
	m, err := wire.ParseManifest(raw)
	if err != nil {
		t.Fatal(err)
	}
	d := signed(t, key, m)
	copy(raw, d.Manifest)
	return d.Sig
}

func TestAccountsHaveKeysOfTheirOwn(t *testing.T) {
	f := setup(t)
	acct := vault.Account(newAccount(t).ID())
	if _, err := f.vault.Key(t.Context(), acct); !errors.Is(err, vault.ErrNotFound) {
		t.Errorf("before it was made: %v", err)
	}
	legacy, err := f.vault.EnsureKey(t.Context(), vault.LegacyUser(alice()), alice(), "alice")
	if err != nil {
		t.Fatal(err)
	}
	made, err := f.vault.EnsureKey(t.Context(), acct, alice(), "alice")
	if err != nil || made.Hash == legacy.Hash || made.Holder != acct {
		t.Fatalf("%v", err)
	}
	fresh := setup(t, func(c *vault.Config) { c.Dial, c.Keys = f.host.Dial, f.keys })
	for name, want := range map[string]struct {
		hash [32]byte
		get  func() (*vault.CapeKey, error)
	}{
		"by account":        {made.Hash, func() (*vault.CapeKey, error) { return fresh.vault.Key(t.Context(), acct) }},
		"by name":           {made.Hash, func() (*vault.CapeKey, error) { return fresh.vault.KeyOfUser(t.Context(), "alice", false) }},
		"legacy, by name":   {legacy.Hash, func() (*vault.CapeKey, error) { return fresh.vault.KeyOfUser(t.Context(), "alice", true) }},
		"for another user":  {made.Hash, func() (*vault.CapeKey, error) { return fresh.vault.EnsureKey(t.Context(), acct, bob(), "bob") }},
		"legacy, by itself": {legacy.Hash, func() (*vault.CapeKey, error) { return fresh.vault.Key(t.Context(), vault.LegacyUser(alice())) }},
	} {
		if k, err := want.get(); err != nil || k.Hash != want.hash {
			t.Errorf("%s: %v", name, err)
		}
	}
	if n := f.keys.Pairs(); n != 2 {
		t.Errorf("%d pairs were made", n)
	}
}

func TestKeysOfOtherAccountsAreRefused(t *testing.T) {
	mine, other := newAccount(t).ID(), newAccount(t).ID()
	tests := []struct {
		name string
		lie  func(f *fixture)
		want error
	}{
		{"other account's record", func(f *fixture) { f.host.Accounts[mine] = f.host.Accounts[other] }, vault.ErrWrongAccount},
		{"other account's key", func(f *fixture) { f.host.Accounts[mine].Wrapped = f.host.Accounts[other].Wrapped }, vault.ErrWrapped},
		{"legacy record", func(f *fixture) { f.host.Accounts[mine] = f.host.Keys[alice()] }, vault.ErrWrongAccount},
		{"legacy key", func(f *fixture) { f.host.Accounts[mine].Wrapped = f.host.Keys[alice()].Wrapped }, vault.ErrWrapped},
		{"other KEK", func(f *fixture) { f.host.Accounts[mine].KEK += "0" }, vault.ErrKEK},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			f := setup(t)
			for _, h := range []vault.Holder{vault.Account(mine), vault.Account(other), vault.LegacyUser(alice())} {
				if _, err := f.vault.EnsureKey(t.Context(), h, alice(), "alice"); err != nil {
					t.Fatal(err)
				}
			}
			tt.lie(f)
			fresh := setup(t, func(c *vault.Config) { c.Dial, c.Keys = f.host.Dial, f.keys })
			if _, err := fresh.vault.Key(t.Context(), vault.Account(mine)); !errors.Is(err, tt.want) {
				t.Errorf("got %v, want %v", err, tt.want)
			}
			if _, err := fresh.vault.EnsureKey(t.Context(), vault.Account(mine), alice(), "alice"); !errors.Is(err, tt.want) {
				t.Errorf("ensuring: got %v, want %v", err, tt.want)
			}
		})
	}
}
