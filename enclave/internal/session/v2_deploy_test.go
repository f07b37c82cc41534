package session_test

import (
	"bytes"
	"crypto/sha256"
	"errors"
	"fmt"
	"net/http"
	"testing"
	"time"

	"github.com/coder/websocket"

	"github.com/cape-functions/cape/core/attest"
	"github.com/cape-functions/cape/core/seal"
	"github.com/cape-functions/cape/core/wire"
	"github.com/cape-functions/cape/enclave/internal/intake"
	"github.com/cape-functions/cape/enclave/internal/session"
	vaultkit "github.com/cape-functions/cape/enclave/internal/vault/testkit"
)

func TestV2OwnersRoutesNeedTokenAndAuthority(t *testing.T) {
	f := setup(t)
	expecting := opening("alice", f.alice)
	expecting.Expect.Fn = make([]byte, 32)
	tests := []struct {
		name   string
		open   seal.Opening
		code   string
		onlyOn string
	}{
		{"no token", opening("", f.alice), wire.CodeUnauthorized, ""},
		{"forged token", opening("forged", f.alice), wire.CodeUnauthorized, ""},
		{"scoped token", opening("scoped", f.alice), wire.CodeUnauthorized, ""},
		{"no authority, deploy", opening("alice", nil), wire.CodeUnauthorized, "/v1/deploy"},
		{"no authority, test", opening("alice", nil), wire.CodeUnauthorized, "/v1/test"},
		{"token without a user", opening("unnamed", f.alice), wire.CodeUnauthorized, "/v1/deploy"},
		{"expectation", expecting, wire.CodeInvalidFunction, ""},
	}
	for _, tt := range tests {
		for _, route := range []string{"/v1/deploy", "/v1/test", "/v1/key"} {
			if tt.onlyOn != "" && tt.onlyOn != route {
				continue
			}
			t.Run(tt.name+" "+route, func(t *testing.T) {
				p := f.begin(route, tt.open)
				p.refused(0, tt.code)
				p.closed()
			})
		}
	}
	if f.keys.Pairs() != 0 {
		t.Error("a key was made")
	}
}

func TestV2DeploysThatAreRefused(t *testing.T) {
	f := setup(t)
	mallory := newAccount(t)
	zip := zipOf(t, "e/app.py", "")
	signed := func(change func(*wire.Manifest)) [2][]byte {
		m := f.manifest("echo", zip)
		change(m)
		raw, err := wire.Marshal(m)
		if err != nil {
			t.Fatal(err)
		}
		if again, sig, err := f.alice.SignManifest(m); err == nil {
			return [2][]byte{again, sig}
		}
		return [2][]byte{raw, make([]byte, 64)}
	}
	sound := signed(func(*wire.Manifest) {})
	theirs := f.manifest("echo", zip)
	acct := mallory.ID()
	theirs.Acct = acct[:]
	foreign, foreignSig, err := mallory.SignManifest(theirs)
	if err != nil {
		t.Fatal(err)
	}
	tests := []struct {
		name     string
		manifest [2][]byte
		zip      []byte
		check    error
		host     string
		code     string
	}{
		{"no manifest", [2][]byte{}, zip, nil, "", wire.CodeInvalidFunction},
		{"signature of something else", [2][]byte{sound[0], foreignSig}, zip, nil, "", wire.CodeInvalidFunction},
		{"another account's", [2][]byte{foreign, foreignSig}, zip, nil, "", wire.CodeInvalidFunction},
		{"no account", signed(func(m *wire.Manifest) { m.Acct = nil }), zip, nil, "", wire.CodeInvalidFunction},
		{"malformed", [2][]byte{[]byte("x"), sound[1]}, zip, nil, "", wire.CodeInvalidFunction},
		{"name", signed(func(m *wire.Manifest) { m.Name = "a/b" }), zip, nil, "", wire.CodeInvalidFunction},
		{"another owner", signed(func(m *wire.Manifest) { m.Owner = bob() }), zip, nil, "", wire.CodeUnauthorized},
		{"another function", signed(func(m *wire.Manifest) { m.Checksum = make([]byte, 32) }), zip, nil, "", wire.CodeInvalidFunction},
		{"not a function", sound, zip, fmt.Errorf("%w: there is no app.py", intake.ErrInvalid), "", wire.CodeInvalidFunction},
		{"check fails", sound, zip, errors.New("secret"), "", wire.CodeInternal},
		{"too large", sound, make([]byte, 1<<20+1), nil, "", wire.CodeTooLarge},
		{"disk full", sound, zip, nil, wire.CodeQuota, wire.CodeQuota},
		{"host away", sound, zip, nil, wire.CodeUnavailable, wire.CodeUnavailable},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			f.functions.check = func([]byte) error { return tt.check }
			f.host.Intercept = func(w http.ResponseWriter, r *http.Request) bool {
				if tt.host == "" || r.Method != http.MethodPut {
					return false
				}
				vaultkit.Refuse(w, tt.host)
				return true
			}
			p, a := f.accepted("/v1/deploy", opening("alice", f.alice))
			if a.Fn != nil || a.Manifest != nil || a.Python == "" || a.Limits.Zip == 0 {
				t.Errorf("accepted %+v", a)
			}
			p.function(tt.zip, tt.manifest[0], tt.manifest[1])
			p.refused(0, tt.code)
			p.closed()
			if len(f.host.Functions) != 0 {
				t.Error("something was stored")
			}
		})
	}
}

func TestV2DeployKeepsToItsOrder(t *testing.T) {
	f := setup(t)
	for name, do := range map[string]func(p *peer){
		"input": func(p *peer) { p.send(&wire.Begin{ID: 1, Kind: wire.KindInput}) },
		"two functions": func(p *peer) {
			p.function(nil, []byte("m"), make([]byte, 64))
			p.send(&wire.Begin{ID: 2, Kind: wire.KindFunction})
		},
	} {
		t.Run(name, func(t *testing.T) {
			p, _ := f.accepted("/v1/deploy", opening("alice", f.alice))
			do(p)
			if m, ok := p.next().(*wire.Failure); !ok || m.ID != nil {
				t.Errorf("got %+v", m)
			}
			p.closed()
		})
	}
}

func TestV2DroppedDeployStoresNothing(t *testing.T) {
	f := setup(t)
	zip := zipOf(t, "e/app.py", "")
	raw, sig, err := f.alice.SignManifest(f.manifest("echo", zip))
	if err != nil {
		t.Fatal(err)
	}
	p, _ := f.accepted("/v1/deploy", opening("alice", f.alice))
	p.send(&wire.Begin{ID: 1, Kind: wire.KindFunction, Manifest: raw, Sig: sig})
	p.data(1, zip)
	if err := p.ws.Close(websocket.StatusNormalClosure, ""); err != nil {
		t.Errorf("closing: %v", err)
	}
	m := f.manifest("next", zip)
	f.deployV2(m, zip)
	if len(f.host.Functions) != 1 {
		t.Errorf("%d functions", len(f.host.Functions))
	}
}

func TestV2TestRunsWithoutStoring(t *testing.T) {
	f := setup(t)
	zip := zipOf(t, "e/app.py", "")
	p, a := f.accepted("/v1/test", opening("alice", f.alice))
	if a.Fn != nil {
		t.Errorf("accepted %+v", a)
	}
	p.function(zip, nil, nil)
	const n = wire.MaxStreams // beside the function, which has no answer
	for i := range uint64(n) {
		p.input(i+2, []byte{byte(i)})
	}
	for i := range uint64(n) {
		if out := p.result(i+2, []byte{byte(i)}, sha256.Sum256(zip)); !bytes.Equal(out, []byte{byte(i)}) {
			t.Errorf("got %x", out)
		}
	}
	p.ws.CloseNow()
	waitFor(t, func() bool { return f.functions.running.Load() == 0 })
	if len(f.host.Functions) != 0 || len(f.host.Keys) != 0 || len(f.host.Accounts) != 0 {
		t.Error("something was stored")
	}
	p, _ = f.accepted("/v1/test", opening("alice", f.alice))
	p.send(&wire.Begin{ID: 1, Kind: wire.KindFunction, Manifest: []byte("m"), Sig: make([]byte, 64)})
	p.refused(0, wire.CodeInvalidRequest)
	f.functions.check = func([]byte) error { return fmt.Errorf("%w: app.py does not compile", intake.ErrInvalid) }
	p, _ = f.accepted("/v1/test", opening("alice", f.alice))
	p.function(zip, nil, nil)
	p.input(2, []byte("x"))
	p.refused(0, wire.CodeInvalidFunction)
	p.closed()
}

// capeKey asks for a Cape Key as v2 clients do.
func (f *fixture) capeKeyV2(of wire.KeyOf) (*seal.AttestedKey, error) {
	f.t.Helper()
	caller, err := seal.NewKeyCaller("/v1/key", of)
	if err != nil {
		f.t.Fatal(err)
	}
	p := &peer{t: f.t, ws: f.socket("/v1/key")}
	p.frame(caller.Hello())
	a, err := caller.Receive(p.read())
	if err != nil {
		return nil, err
	}
	evidence, err := attest.Verify(nil, a.Document, f.enclave.Accepts(caller.Nonce()), time.Now())
	if err != nil {
		f.t.Fatal(err)
	}
	if code := p.closed(); code != websocket.StatusNormalClosure {
		f.t.Errorf("closed with %d", code)
	}
	return caller.Bind(evidence, f.enclave.Authority.Root)
}

// makeKey makes the caller's own Cape Key.
func (f *fixture) makeKey(o seal.Opening) {
	f.t.Helper()
	p, a := f.accepted("/v1/key", o)
	if a.Fn != nil {
		f.t.Errorf("accepted %+v", a)
	}
	if code := p.closed(); code != websocket.StatusNormalClosure {
		f.t.Errorf("closed with %d", code)
	}
}

func TestV2CapeKeys(t *testing.T) {
	f := setup(t)
	acct := f.alice.ID()
	ofAccount, ofUser := wire.KeyOf{Acct: acct[:]}, wire.KeyOf{User: "alice"}
	for _, of := range []wire.KeyOf{ofAccount, ofUser} {
		var remote *wire.RemoteError
		if k, err := f.capeKeyV2(of); !errors.As(err, &remote) || remote.Code != wire.CodeNotFound {
			t.Errorf("before it was made: %v, %v", k, err)
		}
	}
	if f.keys.Pairs() != 0 || f.module.Documents() != 0 {
		t.Error("asking made a key or a document")
	}
	f.makeKey(opening("alice", nil))
	legacy, err := f.capeKeyV2(ofUser)
	if err != nil || legacy.Acct != nil {
		t.Fatalf("legacy key: %v", err)
	}
	if !bytes.Equal(legacy.SPKI, spkiOf(t, f.capeKey("alice"))) {
		t.Error("v1 has another legacy key")
	}
	f.makeKey(opening("alice", f.alice))
	f.makeKey(opening("alice", f.alice)) // a second time makes no other
	key, err := f.capeKeyV2(ofAccount)
	if err != nil || !bytes.Equal(key.Acct, acct[:]) || bytes.Equal(key.SPKI, legacy.SPKI) {
		t.Fatalf("account's key: %v", err)
	}
	byName, err := f.capeKeyV2(ofUser)
	if err != nil || !bytes.Equal(byName.SPKI, key.SPKI) || !bytes.Equal(byName.Acct, acct[:]) {
		t.Errorf("by name: %v", err)
	}
	if !bytes.Equal(legacy.SPKI, spkiOf(t, f.capeKey("alice"))) {
		t.Error("v1 was given the account's key")
	}
	if n := f.keys.Pairs(); n != 2 {
		t.Errorf("%d pairs", n)
	}
}

func TestV2DocumentsNameTheTLSKeyOfTheirConnection(t *testing.T) {
	f := setup(t, func(c *session.Config) { c.TLS = func() []byte { return bytes.Repeat([]byte{7}, 32) } })
	if _, p := f.connect("/v1/key"); p.attested.TLS != nil {
		t.Error("a connection without TLS names a TLS key")
	}
}
