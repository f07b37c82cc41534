package session_test

import (
	"bytes"
	"context"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/x509"
	"fmt"
	"slices"
	"testing"

	"github.com/cape-functions/cape/core/envelope"
	"github.com/cape-functions/cape/core/seal"
	"github.com/cape-functions/cape/core/wire"
)

func spkiOf(t *testing.T, key *rsa.PublicKey) []byte {
	t.Helper()
	der, err := x509.MarshalPKIXPublicKey(key)
	if err != nil {
		t.Fatal(err)
	}
	return der
}

// accountKey makes and fetches the Cape Key of alice's account.
func (f *fixture) accountKey() *rsa.PublicKey {
	f.t.Helper()
	f.makeKey(opening("alice", f.alice))
	acct := f.alice.ID()
	k, err := f.capeKeyV2(wire.KeyOf{Acct: acct[:]})
	if err != nil {
		f.t.Fatal(err)
	}
	parsed, err := x509.ParsePKIXPublicKey(k.SPKI)
	if err != nil {
		f.t.Fatal(err)
	}
	pub, ok := parsed.(*rsa.PublicKey)
	if !ok {
		f.t.Fatal("not an RSA key")
	}
	return pub
}

// TestV2WhomEnvelopesOpenTo is the table of who gets what opened by which key.
func TestV2WhomEnvelopesOpenTo(t *testing.T) {
	f := setup(t)
	zip := zipOf(t, "e/app.py", "x")
	checksum, other := sha256.Sum256(zip), sha256.Sum256([]byte("other"))
	ids := map[wire.Decrypt]string{}
	for _, d := range []wire.Decrypt{wire.DecryptOwner, wire.DecryptAny} {
		m := f.manifest("echo", zip)
		m.Access, m.Decrypt = wire.AccessPublic, d
		ids[d] = f.deployV2(m, zip)
	}
	key, legacy := f.accountKey(), f.capeKey("alice")
	text := []byte("a secret")
	acct := [32]byte(f.alice.ID())
	toFn, toName := envelope.ForFunction(checksum), envelope.ForName(acct, "echo")
	const owner, token, stranger = "owner", "token", "stranger"
	mine, all, nobody := []string{owner}, []string{owner, token, stranger}, []string(nil)
	tests := []struct {
		name      string
		sealed    []byte
		ownerOnly []string // who gets it opened by a function with decrypt "owner"
		any       []string // and with decrypt "any"
	}{
		{"account's key, this function", sealV2(t, key, toFn, false, text), mine, all},
		{"account's key, this name", sealV2(t, key, toName, true, text), mine, all},
		{"account's key, this version of the name", sealV2(t, key, toName.Since(7), true, text), mine, all},
		{"account's key, later versions of the name", sealV2(t, key, toName.Since(8), true, text), nobody, nobody},
		{"account's key, owner alone", sealV2(t, key, envelope.ForOwner(), false, text), mine, mine},
		{"account's key, other function", sealV2(t, key, envelope.ForFunction(other), false, text), nobody, nobody},
		{"account's key, other name", sealV2(t, key, envelope.ForName(acct, "other"), false, text), nobody, nobody},
		{"account's key, other account's name", sealV2(t, key, envelope.ForName(other, "echo"), false, text), nobody, nobody},
		{"account's key, old form", sealOld(t, key, text), nobody, nobody},
		{"legacy key, this function", sealV2(t, legacy, toFn, false, text), all, all},
		{"legacy key, owner alone", sealV2(t, legacy, envelope.ForOwner(), false, text), mine, mine},
		{"legacy key, other function", sealV2(t, legacy, envelope.ForFunction(other), false, text), nobody, nobody},
		{"legacy key, old form", sealOld(t, legacy, text), all, all},
		{"legacy key, recorded deploy", sealOld(t, legacy, zip), nobody, nobody},
	}
	callers := map[string]seal.Opening{owner: opening("bob", f.alice), token: opening("alice", nil), stranger: opening("bob", newAccount(t))}
	for _, tt := range tests {
		for decrypt, who := range map[wire.Decrypt][]string{wire.DecryptOwner: tt.ownerOnly, wire.DecryptAny: tt.any} {
			for caller, open := range callers {
				t.Run(fmt.Sprint(tt.name, ", ", decrypt, ", ", caller), func(t *testing.T) {
					p, _ := f.accepted("/v1/run/"+ids[decrypt], open)
					p.input(1, tt.sealed)
					if !slices.Contains(who, caller) {
						p.refused(1, wire.CodeInvalidRequest)
					} else if out := p.result(1, tt.sealed, checksum); !bytes.Equal(out, text) {
						t.Errorf("the handler saw %q", out)
					}
					p.input(2, []byte("next"))
					p.result(2, []byte("next"), checksum)
				})
			}
			t.Run(fmt.Sprint(tt.name, ", ", decrypt, ", v1"), func(t *testing.T) {
				c := f.enter("/v1/run/"+ids[decrypt], "alice")
				c.seal(tt.sealed)
				if !slices.Contains(who, token) {
					c.refused(wire.CodeInvalidRequest)
				} else if out := c.result(tt.sealed); !bytes.Equal(out, text) {
					t.Errorf("the handler saw %q", out)
				}
			})
		}
	}
}

// TestV2FunctionsWithoutAnAccountGetNoAccountsKey, whoever calls them.
func TestV2FunctionsWithoutAnAccountGetNoAccountsKey(t *testing.T) {
	f := setup(t)
	zip := zipOf(t, "e/app.py", "x")
	id, checksum := f.deploy("alice", "echo", true, zip), sha256.Sum256(zip)
	key := f.accountKey()
	for _, to := range []envelope.To{envelope.ForFunction(checksum), envelope.ForOwner(), envelope.ForName([32]byte(f.alice.ID()), "echo")} {
		p, _ := f.accepted("/v1/run/"+id, opening("alice", f.alice))
		p.input(1, sealV2(t, key, to, false, []byte("x")))
		p.refused(1, wire.CodeInvalidRequest)
	}
}

func TestV2LargeEnvelopesStream(t *testing.T) {
	f := setup(t)
	zip := zipOf(t, "e/app.py", "x")
	id, checksum := f.deployV2(f.manifest("echo", zip), zip), sha256.Sum256(zip)
	key := f.accountKey()
	plain := make([]byte, 700_000)
	rand.Read(plain)
	called := 0
	f.functions.handle = func(_ context.Context, _ *process, in []byte) ([]byte, error) { called++; return in, nil }
	for _, text := range []bool{false, true} {
		sealed := sealV2(t, key, envelope.ForOwner(), text, plain)
		p, _ := f.accepted("/v1/run/"+id, opening("alice", f.alice))
		p.input(1, sealed)
		if out := p.result(1, sealed, checksum); !bytes.Equal(out, plain) {
			t.Error("another plaintext")
		}
		before := called
		for i, bad := range [][]byte{sealed[:len(sealed)-1], sealed[:600_000], append(bytes.Clone(sealed), 'A')} {
			p.input(uint64(i+2), bad)
			p.refused(uint64(i+2), wire.CodeInvalidRequest)
		}
		if called != before {
			t.Error("called with what is not whole")
		}
	}
}

func TestV2TestsUseTheCallersKeys(t *testing.T) {
	f := setup(t)
	zip := zipOf(t, "e/app.py", "x")
	checksum := sha256.Sum256(zip)
	key, legacy := f.accountKey(), f.capeKey("alice")
	p, _ := f.accepted("/v1/test", opening("alice", f.alice))
	p.function(zip, nil, nil)
	for i, sealed := range [][]byte{sealV2(t, key, envelope.ForOwner(), false, []byte("x")), sealV2(t, key, envelope.ForFunction(checksum), true, []byte("x")),
		sealOld(t, legacy, []byte("x"))} {
		p.input(uint64(i+2), sealed)
		if out := p.result(uint64(i+2), sealed, checksum); string(out) != "x" {
			t.Errorf("%d: %q", i, out)
		}
	}
}

// TestV2CapeEncryptInsideTheFunction: a signed function encrypts to itself under the account's
// key, and what it may open is what its caller may.
func TestV2CapeEncryptInsideTheFunction(t *testing.T) {
	f := setup(t)
	zip := zipOf(t, "e/app.py", "x")
	m := f.manifest("echo", zip)
	m.Access = wire.AccessPublic
	id := f.deployV2(m, zip)
	f.functions.handle = func(ctx context.Context, p *process, in []byte) ([]byte, error) {
		sealed, err := p.rpc(ctx, "CapeEncryptRPC.Encrypt", in)
		if err != nil {
			return nil, err
		}
		if envelope.Detect(sealed) != envelope.V2Text {
			t.Errorf("encrypted as %.20q", sealed)
		}
		plain, err := p.rpc(ctx, "CapeEncryptRPC.Decrypt", sealed)
		if err != nil {
			return []byte("refused"), nil
		}
		return plain, nil
	}
	for _, tt := range []struct {
		open seal.Opening
		want string
	}{{opening("bob", f.alice), "x"}, {opening("bob", nil), "refused"}} {
		p, _ := f.accepted("/v1/run/"+id, tt.open)
		p.input(1, []byte("x"))
		if out := p.result(1, []byte("x"), sha256.Sum256(zip)); string(out) != tt.want {
			t.Errorf("came back as %q, want %q", out, tt.want)
		}
	}
}

// TestOldVersionsOpenNothingNew: what a version encrypts itself opens in that version and in later ones, whatever an older one
// that is still signed would do with it.
func TestOldVersionsOpenNothingNew(t *testing.T) {
	f := setup(t)
	zip := zipOf(t, "e/app.py", "x")
	ids := map[uint64]string{}
	for _, seq := range []uint64{6, 7, 8} {
		m := f.manifest("vault", zip)
		m.Access, m.Decrypt, m.Seq = wire.AccessPublic, wire.DecryptAny, seq
		ids[seq] = f.deployV2(m, zip)
	}
	call := func(seq uint64, method string, arg []byte) []byte {
		f.functions.handle = func(ctx context.Context, p *process, _ []byte) ([]byte, error) {
			out, err := p.rpc(ctx, method, arg)
			if err != nil {
				return []byte("refused"), nil
			}
			return out, nil
		}
		p, _ := f.accepted("/v1/run/"+ids[seq], opening("bob", nil))
		p.input(1, []byte("x"))
		return p.result(1, []byte("x"), sha256.Sum256(zip))
	}
	sealed := call(7, "CapeEncryptRPC.Encrypt", []byte("kept"))
	for seq, want := range map[uint64]string{6: "refused", 7: "kept", 8: "kept"} {
		if out := call(seq, "CapeEncryptRPC.Decrypt", sealed); string(out) != want {
			t.Errorf("version %d gets %q, want %q", seq, out, want)
		}
	}
}

// TestV1CapeEncryptInsideTheFunction: what a function of an account keeps is sealed to the
// account in version 1 too, whose callers the operator admits: the legacy key opens it to
// nobody's echo, and the function itself opens it again where its manifest says any.
func TestV1CapeEncryptInsideTheFunction(t *testing.T) {
	f := setup(t)
	zip := zipOf(t, "e/app.py", "x")
	echo := f.deploy("alice", "echo", true, zip)
	for decrypt, opens := range map[wire.Decrypt]bool{wire.DecryptOwner: false, wire.DecryptAny: true} {
		m := f.manifest("vault", zip)
		m.Access, m.Decrypt = wire.AccessPublic, decrypt
		id := f.deployV2(m, zip)
		f.functions.handle = func(ctx context.Context, p *process, in []byte) ([]byte, error) {
			return p.rpc(ctx, "CapeEncryptRPC.Encrypt", in)
		}
		c := f.enter("/v1/run/"+id, "bob")
		c.seal([]byte("kept"))
		sealed := c.result([]byte("kept"))
		if envelope.Detect(sealed) != envelope.V2Text {
			t.Fatalf("encrypted as %.20q", sealed)
		}
		f.functions.handle = func(_ context.Context, _ *process, in []byte) ([]byte, error) { return in, nil }
		c = f.enter("/v1/run/"+echo, "alice")
		c.seal(sealed)
		c.refused(wire.CodeInvalidRequest)

		f.functions.handle = func(ctx context.Context, p *process, in []byte) ([]byte, error) {
			plain, err := p.rpc(ctx, "CapeEncryptRPC.Decrypt", sealed)
			if err != nil {
				return []byte("refused"), nil
			}
			return plain, nil
		}
		want := map[bool]string{false: "refused", true: "kept"}[opens]
		c = f.enter("/v1/run/"+id, "bob")
		c.seal([]byte("x"))
		if out := c.result([]byte("x")); string(out) != want {
			t.Errorf("decrypt %s: came back as %q, want %q", decrypt, out, want)
		}
	}
}
