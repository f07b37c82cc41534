package session_test

import (
	"crypto/sha256"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/coder/websocket"

	"github.com/cape-functions/cape/core/seal"
	"github.com/cape-functions/cape/core/wire"
)

func TestV2HellosThatAreRefused(t *testing.T) {
	f := setup(t)
	hello := func(h wire.Hello) []byte {
		b, err := wire.Marshal(h)
		if err != nil {
			t.Fatal(err)
		}
		return b
	}
	sound := wire.Hello{V: 2, Use: wire.UseSession, Nonce: make([]byte, 32), KEMs: []wire.KEM{wire.KEMXWing}, Route: "/v1/run/alice/echo"}
	change := func(c func(*wire.Hello)) []byte {
		h := sound
		c(&h)
		return hello(h)
	}
	key := wire.Hello{V: 2, Use: wire.UseKey, Nonce: make([]byte, 32), Route: "/v1/run/alice/echo", Of: &wire.KeyOf{User: "alice"}}
	tests := []struct {
		name string
		typ  websocket.MessageType
		data []byte
		code string
	}{
		{"text", websocket.MessageText, hello(sound), wire.CodeInvalidRequest},
		{"v1", websocket.MessageText, []byte(`{"message":{"nonce":"AAAAAAAAAAAAAAAA"}}`), wire.CodeInvalidRequest},
		{"garbage", websocket.MessageBinary, []byte("x"), wire.CodeInvalidRequest},
		{"empty", websocket.MessageBinary, nil, wire.CodeInvalidRequest},
		{"bytes after it", websocket.MessageBinary, append(hello(sound), 0), wire.CodeInvalidRequest},
		{"too large", websocket.MessageBinary, make([]byte, wire.MaxHello+1), wire.CodeTooLarge},
		{"version", websocket.MessageBinary, change(func(h *wire.Hello) { h.V = 3 }), wire.CodeInvalidRequest},
		{"nonce", websocket.MessageBinary, change(func(h *wire.Hello) { h.Nonce = h.Nonce[1:] }), wire.CodeInvalidRequest},
		{"use", websocket.MessageBinary, change(func(h *wire.Hello) { h.Use = "kek" }), wire.CodeInvalidRequest},
		{"another route", websocket.MessageBinary, change(func(h *wire.Hello) { h.Route = "/v1/run/bob/medical" }), wire.CodeInvalidRequest},
		{"unknown key exchange", websocket.MessageBinary, change(func(h *wire.Hello) { h.KEMs = []wire.KEM{0x21} }), wire.CodeInvalidRequest},
		{"no key exchange", websocket.MessageBinary, change(func(h *wire.Hello) { h.KEMs = nil }), wire.CodeInvalidRequest},
		{"Cape Key on another route", websocket.MessageBinary, hello(key), wire.CodeInvalidRequest},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			p := &peer{t: t, ws: f.socket("/v1/run/alice/echo")}
			if err := p.ws.Write(t.Context(), tt.typ, tt.data); err != nil {
				t.Fatal(err)
			}
			p.refusal(tt.code)
			p.closed()
		})
	}
	if f.module.Documents() != 0 {
		t.Error("a document was made")
	}
}

func TestV2ChoosesXWingWheneverItIsOffered(t *testing.T) {
	f := setup(t)
	for _, tt := range []struct {
		offer []wire.KEM
		want  wire.KEM
	}{
		{[]wire.KEM{wire.KEMXWing}, wire.KEMXWing},
		{[]wire.KEM{wire.KEMX25519, wire.KEMXWing}, wire.KEMXWing},
		{[]wire.KEM{0x21, wire.KEMX25519}, wire.KEMX25519},
	} {
		_, p := f.connect("/v1/key", tt.offer...)
		claim, err := wire.ParseSessionClaim(p.attested.Evidence.Document.UserData)
		if err != nil || claim.KEM != tt.want || claim.TLS != nil {
			t.Errorf("%v: %+v, %v", tt.offer, claim, err)
		}
	}
}

// TestV2NothingHappensBeforeOpen: whatever else comes, nothing is fetched, unwrapped or
// started, and the one chance is gone.
func TestV2NothingHappensBeforeOpen(t *testing.T) {
	f := setup(t)
	zip := zipOf(t, "e/app.py", "")
	id := f.deployV2(f.manifest("echo", zip), zip)
	route := "/v1/run/" + id
	var asked atomic.Int64
	f.host.Intercept = func(http.ResponseWriter, *http.Request) bool { asked.Add(1); return false }
	opens := f.keys.Opens()
	other, _ := f.connect(route)
	replayed, _, err := other.Open(opening("alice", f.alice))
	if err != nil {
		t.Fatal(err)
	}
	tests := []struct {
		name  string
		frame func(c *seal.Caller) []byte
	}{
		{"garbage", func(*seal.Caller) []byte { return []byte("x") }},
		{"empty", func(*seal.Caller) []byte { return nil }},
		{"open of another connection", func(*seal.Caller) []byte { return replayed }},
		{"bit flipped", func(c *seal.Caller) []byte {
			frame, _, err := c.Open(opening("alice", f.alice))
			if err != nil {
				t.Fatal(err)
			}
			frame[len(frame)-1] ^= 1
			return frame
		}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			c, p := f.connect(route)
			p.frame(tt.frame(c))
			p.refusal(wire.CodeInvalidRequest)
			if sound, _, err := c.Open(opening("alice", f.alice)); err == nil {
				_ = p.ws.Write(t.Context(), websocket.MessageBinary, sound)
			}
			p.closed()
		})
	}
	if asked.Load() != 0 || f.keys.Opens() != opens || f.functions.starts.Load() != 0 {
		t.Errorf("the host was asked %d times, %d keys were opened", asked.Load(), f.keys.Opens()-opens)
	}
}

func TestV2Tokens(t *testing.T) {
	f := setup(t)
	zip := zipOf(t, "e/app.py", "")
	m := f.manifest("echo", zip)
	m.Access = wire.AccessPublic
	id := f.deployV2(m, zip)
	var asked atomic.Int64
	f.host.Intercept = func(http.ResponseWriter, *http.Request) bool { asked.Add(1); return false }
	grant := opening("alice", nil)
	grant.Grant = []byte("grant")
	tests := []struct {
		name string
		open seal.Opening
		code string
	}{
		{"none", opening("", nil), wire.CodeUnauthorized},
		{"forged", opening("forged", nil), wire.CodeUnauthorized},
		{"forged, with authority", opening("forged", f.alice), wire.CodeUnauthorized},
		{"expired", opening("expired", nil), wire.CodeUnauthorized},
		{"issuer away", opening("no-keys", nil), wire.CodeUnavailable},
		{"grant", grant, wire.CodeUnauthorized},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			p := f.begin("/v1/run/"+id, tt.open)
			failure := p.refused(0, tt.code)
			if tt.name == "expired" && !strings.Contains(failure.Message, "token is expired") {
				t.Errorf("text %q", failure.Message)
			}
			if code := p.closed(); code != websocket.StatusNormalClosure {
				t.Errorf("closed with %d", code)
			}
		})
	}
	if asked.Load() != 0 {
		t.Error("the host was asked for a function")
	}
}

func TestV2WhoMayRun(t *testing.T) {
	f := setup(t)
	mallory := newAccount(t)
	zip := zipOf(t, "e/app.py", "")
	ids := map[wire.Access]string{}
	for _, access := range []wire.Access{wire.AccessPublic, wire.AccessToken, wire.AccessGrant} {
		m := f.manifest(string(access), zip)
		m.Access = access
		ids[access] = f.deployV2(m, zip)
	}
	f.tokens["of public"] = f.claimsFor(ids[wire.AccessPublic])
	const public, token, grant = wire.AccessPublic, wire.AccessToken, wire.AccessGrant
	tests := []struct {
		name string
		open seal.Opening
		may  []wire.Access
		v1   bool // the same holds for v1
	}{
		{"owner's token", opening("alice", nil), []wire.Access{public, token}, true},
		{"owner's authority", opening("", f.alice), []wire.Access{grant}, false},
		{"owner's authority and token", opening("alice", f.alice), []wire.Access{public, token, grant}, false},
		{"owner's authority, another's token", opening("bob", f.alice), []wire.Access{public, grant}, false},
		{"another's token", opening("bob", nil), []wire.Access{public}, true},
		{"another's authority", opening("", mallory), nil, false},
		{"another's authority and token", opening("bob", mallory), []wire.Access{public}, false},
		{"another's authority, token minted for the owner", opening("alice", mallory), []wire.Access{public, token}, false},
		{"token for one function", opening("of public", nil), []wire.Access{public}, true},
		{"token for one function, owner's authority", opening("of public", f.alice), []wire.Access{public}, false},
	}
	for _, tt := range tests {
		for access, id := range ids {
			t.Run(fmt.Sprint(tt.name, " ", access), func(t *testing.T) {
				may := slices.Contains(tt.may, access)
				p := f.begin("/v1/run/"+id, tt.open)
				if !may {
					p.refused(0, wire.CodeNotFound)
				} else if a, ok := p.next().(*wire.Accepted); !ok {
					t.Errorf("not accepted: %+v", a)
				}
				if !tt.v1 {
					return
				}
				c, resp, _ := f.dial("/v1/run/"+id, wire.SubprotocolRuntime, string(tt.open.Token.Reveal()))
				if (c != nil) != may || (c == nil && resp.StatusCode != http.StatusNotFound) {
					t.Errorf("v1: admitted %v", c != nil)
				}
			})
		}
	}
}

func TestV2RunsFunctionsWithoutAnAccount(t *testing.T) {
	f := setup(t)
	zip := zipOf(t, "e/app.py", "")
	private := f.deploy("alice", "mine", false, zip)
	p, a := f.accepted("/v1/run/"+private, opening("alice", nil))
	if a.Sig != nil || a.Key != nil {
		t.Error("a signature out of nowhere")
	}
	p.input(1, []byte("x"))
	p.result(1, []byte("x"), sha256.Sum256(zip))
	f.begin("/v1/run/"+private, opening("bob", nil)).refused(0, wire.CodeNotFound)
	f.begin("/v1/run/"+private, opening("bob", f.alice)).refused(0, wire.CodeNotFound)
	f.begin("/v1/run/"+private, opening("", f.alice)).refused(0, wire.CodeNotFound)
}

func TestV2Expectations(t *testing.T) {
	f := setup(t)
	zip := zipOf(t, "e/app.py", "")
	sum, acct := sha256.Sum256(zip), f.alice.ID()
	signed := f.deployV2(f.manifest("echo", zip), zip)
	unsigned := f.deploy("alice", "old", false, zip)
	seq := func(n uint64) *uint64 { return &n }
	tests := []struct {
		name   string
		id     string
		expect wire.Expect
		met    bool
	}{
		{"checksum", signed, wire.Expect{Fn: sum[:]}, true},
		{"other checksum", signed, wire.Expect{Fn: acct[:]}, false},
		{"account", signed, wire.Expect{Acct: acct[:]}, true},
		{"other account", signed, wire.Expect{Acct: sum[:]}, false},
		{"account where there is none", unsigned, wire.Expect{Acct: acct[:]}, false},
		{"equal seq", signed, wire.Expect{Seq: seq(7)}, true},
		{"lower seq", signed, wire.Expect{Seq: seq(6)}, true},
		{"higher seq", signed, wire.Expect{Seq: seq(8)}, false},
		{"all", signed, wire.Expect{Fn: sum[:], Acct: acct[:], Seq: seq(7)}, true},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			opens := f.keys.Opens()
			o := opening("alice", nil)
			o.Expect = tt.expect
			p := f.begin("/v1/run/"+tt.id, o)
			p.input(1, []byte("sent before anything was accepted"))
			if !tt.met {
				p.refused(0, wire.CodeInvalidFunction)
				p.closed()
				if f.keys.Opens() != opens || f.functions.running.Load() != 0 {
					t.Error("its key was opened, or it was started")
				}
				return
			}
			if a, ok := p.next().(*wire.Accepted); !ok {
				t.Fatalf("not accepted: %+v", a)
			}
			p.result(1, []byte("sent before anything was accepted"), sum)
			p.ws.CloseNow()
			waitFor(t, func() bool { return f.functions.running.Load() == 0 })
		})
	}
}

func TestV2IsNotServedBeforeTheKeyWasInspected(t *testing.T) {
	f := setup(t)
	f.server.Suspend()
	c, resp, body := f.dial("/v1/key", wire.SubprotocolV2)
	if c != nil || resp.StatusCode != http.StatusServiceUnavailable || body.Code != wire.CodeUnavailable {
		t.Errorf("%+v", body)
	}
	if f.module.Documents() != 0 {
		t.Error("a document was made")
	}
}
