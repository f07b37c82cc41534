package trust_test

import (
	"context"
	"encoding/hex"
	"errors"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/cape-functions/cape/client/trust"
	"github.com/cape-functions/cape/core/attest"
	"github.com/cape-functions/cape/core/wire"
)

var (
	ann = [32]byte{0xaa}
	bob = [32]byte{0xbb}
)

func hexOf(id [32]byte) string { return hex.EncodeToString(id[:]) }

// signed is a function of the account, nil for an unsigned one.
func signed(account *[32]byte, seq uint64, sum byte) trust.Code {
	m := &wire.Manifest{Seq: seq}
	if account != nil {
		m.Acct = account[:]
	}
	return trust.Code{Origin: origin, Name: "bob/f", Checksum: [32]byte{sum}, Manifest: m}
}

// known is a bench whose server is known.
func known(t *testing.T) *bench {
	t.Helper()
	b := newBench(t)
	if _, err := b.meet(t); err != nil {
		t.Fatal(err)
	}
	b.FirstUse = false
	return b
}

func TestAccounts(t *testing.T) {
	askNo := func(context.Context, trust.UnknownAccount) (bool, error) { return false, nil }
	askYes := func(context.Context, trust.UnknownAccount) (bool, error) { return true, nil }
	for _, tc := range []struct {
		name   string
		before []trust.Code // accepted with FirstUse
		change func(*trust.Keeper)
		code   trust.Code
		what   string // refused for
		fresh  bool   // refused as unknown
	}{
		{name: "unknown, nobody to ask", code: signed(&bob, 1, 1), fresh: true},
		{name: "unknown, declined", change: func(k *trust.Keeper) { k.AskAccount = askNo }, code: signed(&bob, 1, 1), fresh: true},
		{name: "unknown, accepted", change: func(k *trust.Keeper) { k.AskAccount = askYes }, code: signed(&bob, 1, 1)},
		{name: "first use", change: func(k *trust.Keeper) { k.FirstUse = true }, code: signed(&bob, 1, 1)},
		{name: "one's own", change: func(k *trust.Keeper) { k.Own = &bob }, code: signed(&bob, 1, 1)},
		{name: "stated", change: func(k *trust.Keeper) { k.Account = hexOf(bob) }, code: signed(&bob, 1, 1)},
		{name: "another stated", change: func(k *trust.Keeper) { k.Account = hexOf(ann) }, code: signed(&bob, 1, 1), what: "account of bob/f"},
		{name: "another stated, first use", change: func(k *trust.Keeper) { k.Account, k.FirstUse = hexOf(ann), true }, code: signed(&bob, 1, 1), what: "account of bob/f"},
		{name: "unsigned, unknown", code: signed(nil, 0, 1), fresh: true},
		{name: "unsigned, stated", change: func(k *trust.Keeper) { k.Account = wire.UnsignedAccount }, code: signed(nil, 0, 1)},
		{name: "pinned in the call", code: func() trust.Code { c := signed(&bob, 1, 1); c.Pinned = true; return c }()},
		{name: "by id", code: func() trust.Code { c := signed(&bob, 1, 1); c.Name, c.ID = "", "id"; return c }()},

		{name: "same", before: []trust.Code{signed(&bob, 5, 1)}, code: signed(&bob, 5, 1)},
		{name: "newer", before: []trust.Code{signed(&bob, 5, 1)}, code: signed(&bob, 6, 2)},
		{name: "older", before: []trust.Code{signed(&bob, 5, 1)}, code: signed(&bob, 4, 1), what: "version of bob/f"},
		{name: "same version, other code", before: []trust.Code{signed(&bob, 5, 1)}, code: signed(&bob, 5, 2), what: "version of bob/f (5): its code"},
		{name: "another account", before: []trust.Code{signed(&bob, 5, 1)}, code: signed(&ann, 6, 1), what: "account of bob/f"},
		{name: "another account, first use", before: []trust.Code{signed(&bob, 5, 1)}, change: func(k *trust.Keeper) { k.FirstUse = true }, code: signed(&ann, 6, 1), what: "account of bob/f"},
		{name: "another account, one's own", before: []trust.Code{signed(&bob, 5, 1)}, change: func(k *trust.Keeper) { k.Own = &ann }, code: signed(&ann, 6, 1), what: "account of bob/f"},
		{name: "another account, pinned code", before: []trust.Code{signed(&bob, 5, 1)}, code: func() trust.Code { c := signed(&ann, 6, 1); c.Pinned = true; return c }(), what: "account of bob/f"},
		{name: "signature gone", before: []trust.Code{signed(&bob, 5, 1)}, code: signed(nil, 6, 1), what: "account of bob/f"},
		{name: "signed now", before: []trust.Code{signed(nil, 0, 1)}, code: signed(&bob, 6, 1), what: "account of bob/f"},
		{name: "unsigned, other code", before: []trust.Code{signed(nil, 0, 1)}, code: signed(nil, 0, 2)},
		{name: "of v1 before", before: []trust.Code{{Origin: origin, Name: "bob/f", Checksum: [32]byte{1}}}, code: signed(&bob, 1, 1), fresh: true},
		{name: "deployed by oneself under a new account", before: []trust.Code{signed(&bob, 5, 1)}, code: func() trust.Code { c := signed(&ann, 1, 2); c.Deployed = true; return c }()},
	} {
		t.Run(tc.name, func(t *testing.T) {
			b := known(t)
			b.FirstUse = true
			for _, c := range tc.before {
				if err := b.Function(t.Context(), c); err != nil {
					t.Fatal(err)
				}
			}
			b.FirstUse = false
			if tc.change != nil {
				tc.change(b.Keeper)
			}
			before := b.entry(t)
			err := b.Function(t.Context(), tc.code)
			var change *trust.Change
			var unknown *trust.UnknownAccount
			switch {
			case tc.fresh:
				if !errors.As(err, &unknown) || unknown.Account == "" {
					t.Errorf("error %v, want an unknown account", err)
				}
			case tc.what != "":
				if !errors.As(err, &change) || change.Differences[0].What != tc.what {
					t.Errorf("error %v, want a change of %s", err, tc.what)
				}
			case err != nil:
				t.Error(err)
			}
			if err != nil {
				if !errors.Is(err, trust.ErrTrust) {
					t.Errorf("%v is not of ErrTrust", err)
				}
				if diff := cmp.Diff(before, b.entry(t)); diff != "" {
					t.Errorf("what was refused is remembered: %s", diff)
				}
			}
		})
	}
}

// TestAccountIsRemembered: of the name, and of the user for other names and keys.
func TestAccountIsRemembered(t *testing.T) {
	b := known(t)
	b.Keeper.Account = hexOf(bob)
	if err := b.Function(t.Context(), signed(&bob, 5, 1)); err != nil {
		t.Fatal(err)
	}
	b.Keeper.Account = ""
	e := b.entry(t)
	if n := e.Names["bob/f"]; n.Account != hexOf(bob) || n.Seq != 5 || e.Accounts["bob"] != hexOf(bob) {
		t.Errorf("remembered %+v, %v", n, e.Accounts)
	}
	other := signed(&bob, 1, 9)
	other.Name = "bob/other"
	if err := b.Function(t.Context(), other); err != nil {
		t.Errorf("another name of the same account: %v", err)
	}
	x, err := b.Expected(t.Context(), trust.Code{Origin: origin, Name: "bob/f"})
	if diff := cmp.Diff(trust.Expected{Account: bob[:], Seq: 5}, x); err != nil || diff != "" {
		t.Error(err, diff)
	}
	if err := b.Recipient(t.Context(), trust.Holder{Origin: origin, User: "bob", Account: bob}); err != nil {
		t.Error(err)
	}
	if err := b.Recipient(t.Context(), trust.Holder{Origin: origin, User: "bob", Account: ann}); !errors.Is(err, trust.ErrTrust) {
		t.Errorf("another account's key: %v", err)
	}
	// What is stated holds for the call, and changes nothing.
	b.Keeper.Account = hexOf(ann)
	if err := b.Function(t.Context(), signed(&ann, 1, 7)); err != nil {
		t.Error(err)
	}
	if diff := cmp.Diff(e.Names["bob/f"], b.entry(t).Names["bob/f"]); diff != "" {
		t.Error(diff)
	}
}

// TestPinnedCodeVouchesForNoAccount: who pins a checksum says nothing about whose it is.
func TestPinnedCodeVouchesForNoAccount(t *testing.T) {
	b := known(t)
	pinned := signed(&bob, 5, 1)
	pinned.Pinned = true
	if err := b.Function(t.Context(), pinned); err != nil {
		t.Fatal(err)
	}
	e := b.entry(t)
	if n := e.Names["bob/f"]; n == nil || n.Checksum == "" || n.Account != "" || n.Seq != 0 || len(e.Accounts) > 0 {
		t.Errorf("remembered %+v, %v", n, e.Accounts)
	}
	var unknown *trust.UnknownAccount
	for _, name := range []string{"bob/f", "bob/other"} {
		code := signed(&bob, 6, 7)
		code.Name = name
		if err := b.Function(t.Context(), code); !errors.As(err, &unknown) {
			t.Errorf("%s afterwards: %v, want an unknown account", name, err)
		}
	}
	if err := b.Recipient(t.Context(), trust.Holder{Origin: origin, User: "bob", Account: bob}); !errors.As(err, &unknown) {
		t.Errorf("encrypting for bob afterwards: %v, want an unknown account", err)
	}
	// Where the account is known already, its versions are still remembered.
	b.Keeper.Account = hexOf(bob)
	if err := b.Function(t.Context(), signed(&bob, 5, 1)); err != nil {
		t.Fatal(err)
	}
	b.Keeper.Account = ""
	pinned.Manifest.Seq, pinned.Checksum = 6, [32]byte{2}
	if err := b.Function(t.Context(), pinned); err != nil || b.entry(t).Names["bob/f"].Seq != 6 {
		t.Errorf("a newer version of a known account: %v, %+v", err, b.entry(t).Names["bob/f"])
	}
}

// TestKnownUserOtherAccount: another name of a user whose account is known is no first use.
func TestKnownUserOtherAccount(t *testing.T) {
	b := known(t)
	b.FirstUse = true
	if err := b.Function(t.Context(), signed(&bob, 1, 1)); err != nil {
		t.Fatal(err)
	}
	b.AskAccount = func(context.Context, trust.UnknownAccount) (bool, error) { return true, nil }
	for _, first := range []bool{true, false} {
		b.FirstUse = first
		for _, by := range []*[32]byte{&ann, nil} {
			code := signed(by, 1, 9)
			code.Name = "bob/other"
			var change *trust.Change
			if err := b.Function(t.Context(), code); !errors.As(err, &change) || change.Differences[0].What != "account of bob" {
				t.Errorf("first use %t, signed %t: %v, want a change", first, by != nil, err)
			}
		}
	}
	if e := b.entry(t); e.Names["bob/other"] != nil || e.Accounts["bob"] != hexOf(bob) {
		t.Errorf("remembered %+v", e)
	}
	b.Keeper.Account = hexOf(ann) // said for this call
	code := signed(&ann, 1, 9)
	code.Name = "bob/other"
	if err := b.Function(t.Context(), code); err != nil {
		t.Error(err)
	}
}

func TestPinsOfSealedSessions(t *testing.T) {
	believes, err := wire.Marshal(wire.Trust{Issuers: []wire.Issuer{{Iss: "https://a.example", Signer: make([]byte, 32)}}, Role: "role"})
	if err != nil {
		t.Fatal(err)
	}
	others, err := wire.Marshal(wire.Trust{Issuers: []wire.Issuer{{Iss: "https://b.example", Signer: make([]byte, 32)}}, Role: "role"})
	if err != nil {
		t.Fatal(err)
	}
	const kms = "arn:aws:kms:eu-west-1:111122223333:key/12345678-1234-1234-1234-123456789012"
	meet := func(b *bench, c trust.Claims, archived bool) error {
		contact := b.contact()
		contact.Archived = archived
		contact.Claims = func(*attest.Evidence) (trust.Claims, error) { return c, nil }
		_, err := b.Enclave(t.Context(), contact)
		return err
	}
	b := known(t) // by a document of v1
	full := trust.Claims{KeyPolicy: b.policy, KMS: kms, Trust: believes}
	if err := meet(b, full, true); err != nil || b.entry(t).KMS != "" {
		t.Fatalf("a document from a file is remembered: %v", err)
	}
	if err := meet(b, full, false); err != nil {
		t.Fatal(err)
	}
	if e := b.entry(t); e.KMS != kms || string(e.Trust) != string(believes) {
		t.Errorf("not remembered: %+v", e)
	}
	for what, c := range map[string]trust.Claims{
		"KMS key":    {KeyPolicy: b.policy, KMS: "arn:aws:kms:eu-west-1:111122223333:key/00000000-1234-1234-1234-123456789012", Trust: believes},
		"trust":      {KeyPolicy: b.policy, KMS: kms, Trust: others},
		"key policy": {KeyPolicy: make([]byte, 32), KMS: kms, Trust: believes},
	} {
		if what == "key policy" {
			c.KeyPolicy[0] = 1
		}
		var change *trust.Change
		if err := meet(b, c, false); !errors.As(err, &change) || change.Differences[0].What != what {
			t.Errorf("another %s: %v", what, err)
		}
	}
}
