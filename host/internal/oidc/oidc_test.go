package oidc_test

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"encoding/json"
	"errors"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/go-jose/go-jose/v4"
	"github.com/go-jose/go-jose/v4/jwt"

	"github.com/cape-functions/cape/core/wire"
	"github.com/cape-functions/cape/host/internal/identity"
	"github.com/cape-functions/cape/host/internal/oidc"
)

// provider is an issuer on the network.
type provider struct {
	*httptest.Server
	t *testing.T

	mu    sync.Mutex
	name  string // what it calls itself
	keys  []jose.JSONWebKey
	body  string // of the key set, when it is not the keys
	down  bool
	calls int
}

func newProvider(t *testing.T, keys ...jose.JSONWebKey) *provider {
	p := &provider{t: t, keys: keys}
	mux := http.NewServeMux()
	mux.HandleFunc("GET /.well-known/openid-configuration", func(w http.ResponseWriter, _ *http.Request) {
		_ = json.NewEncoder(w).Encode(map[string]string{"issuer": p.name, "jwks_uri": p.URL + "/keys"})
	})
	mux.HandleFunc("GET /keys", func(w http.ResponseWriter, _ *http.Request) {
		p.mu.Lock()
		defer p.mu.Unlock()
		p.calls++
		switch {
		case p.down:
			http.Error(w, "down", http.StatusBadGateway)
		case p.body != "":
			_, _ = io.WriteString(w, p.body)
		default:
			_ = json.NewEncoder(w).Encode(jose.JSONWebKeySet{Keys: p.keys})
		}
	})
	p.Server = httptest.NewTLSServer(mux)
	t.Cleanup(p.Close)
	p.name = p.URL
	return p
}

func (p *provider) set(change func()) {
	p.mu.Lock()
	defer p.mu.Unlock()
	change()
}

func (p *provider) config(now func() time.Time) oidc.Config {
	return oidc.Config{Issuer: p.URL, HTTP: p.Client(), Now: now, Log: slog.New(slog.DiscardHandler)}
}

func (p *provider) open(now func() time.Time) *oidc.Issuer {
	p.t.Helper()
	i, err := oidc.Open(p.t.Context(), p.config(now))
	if err != nil {
		p.t.Fatal(err)
	}
	return i
}

type signer struct {
	key crypto.Signer
	alg jose.SignatureAlgorithm
	kid string
}

func rsaKey(t *testing.T, kid string) signer {
	t.Helper()
	k, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		t.Fatal(err)
	}
	return signer{k, jose.RS256, kid}
}

func (s signer) public() jose.JSONWebKey {
	return jose.JSONWebKey{Key: s.key.Public(), KeyID: s.kid, Algorithm: string(s.alg), Use: "sig"}
}

func (s signer) token(t *testing.T, iss string, change map[string]any) string {
	t.Helper()
	claims := map[string]any{"iss": iss, "sub": "u|1", "aud": wire.Audience, "exp": time.Now().Add(time.Hour).Unix(), "jti": "j", wire.ClaimUsername: "bob"}
	for k, v := range change {
		claims[k] = v
		if v == nil {
			delete(claims, k)
		}
	}
	opts := &jose.SignerOptions{}
	if s.kid != "" {
		opts = opts.WithHeader("kid", s.kid)
	}
	sig, err := jose.NewSigner(jose.SigningKey{Algorithm: s.alg, Key: s.key}, opts)
	if err != nil {
		t.Fatal(err)
	}
	raw, err := jwt.Signed(sig).Claims(claims).Serialize()
	if err != nil {
		t.Fatal(err)
	}
	return raw
}

func TestVerify(t *testing.T) {
	ec, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	a, b, other := rsaKey(t, "a"), signer{ec, jose.ES256, "b"}, rsaKey(t, "a")
	p := newProvider(t, a.public(), b.public())
	i := p.open(time.Now)
	if tr := i.Trust(); tr.Iss != p.URL || tr.JWKS == nil || *tr.JWKS != p.URL+"/keys" || tr.Signer != nil {
		t.Errorf("%+v", tr)
	}
	for _, c := range []struct {
		name, token string
		want        error
	}{
		{"RSA", a.token(t, p.URL, nil), nil},
		{"ECDSA", b.token(t, p.URL, nil), nil},
		{"no username", a.token(t, p.URL, map[string]any{wire.ClaimUsername: nil}), nil},
		{"expired", a.token(t, p.URL, map[string]any{"exp": time.Now().Add(-time.Hour).Unix()}), identity.ErrExpired},
		{"no end", a.token(t, p.URL, map[string]any{"exp": nil}), identity.ErrToken},
		{"another issuer", a.token(t, p.URL+"/x", nil), identity.ErrToken},
		{"another audience", a.token(t, p.URL, map[string]any{"aud": "x"}), identity.ErrToken},
		{"no subject", a.token(t, p.URL, map[string]any{"sub": nil}), identity.ErrToken},
		{"another key under this kid", other.token(t, p.URL, nil), identity.ErrToken},
		{"unknown kid", signer{other.key, jose.RS256, "x"}.token(t, p.URL, nil), identity.ErrToken},
		{"no kid, two keys", signer{a.key, jose.PS256, ""}.token(t, p.URL, nil), identity.ErrToken},
		{"another algorithm than the key's", signer{a.key, jose.PS256, "a"}.token(t, p.URL, nil), identity.ErrToken},
		{"too long", strings.Repeat("a", wire.MaxToken+1), identity.ErrToken},
		{"nonsense", "a.b.c", identity.ErrToken},
	} {
		claims, err := i.Verify(c.token)
		if !errors.Is(err, c.want) || (err == nil) != (c.want == nil) {
			t.Errorf("%s: %v, want %v", c.name, err, c.want)
		}
		if err == nil && (claims.Owner != wire.Subject{Iss: p.URL, Sub: "u|1"} || claims.ID != "j") {
			t.Errorf("%s: %+v", c.name, claims)
		}
	}
}

func TestKeysAreFetchedAgain(t *testing.T) {
	a, b := rsaKey(t, "a"), rsaKey(t, "b")
	p := newProvider(t, a.public())
	now := time.Now()
	i := p.open(func() time.Time { return now })
	p.set(func() { p.keys = []jose.JSONWebKey{b.public()} })
	tok := b.token(t, p.URL, map[string]any{"exp": now.Add(72 * time.Hour).Unix()})
	old := a.token(t, p.URL, map[string]any{"exp": now.Add(72 * time.Hour).Unix()})
	for range 20 { // whoever sends tokens of unknown keys does not make us ask each time
		if _, err := i.Verify(tok); err == nil {
			t.Fatal("verified by a key that was not fetched")
		}
	}
	if p.calls != 1 {
		t.Errorf("%d calls for the keys", p.calls)
	}
	now = now.Add(31 * time.Second)
	if _, err := i.Verify(tok); err != nil {
		t.Errorf("after a rotation: %v", err)
	}
	if _, err := i.Verify(old); err == nil {
		t.Error("a key that was withdrawn still verifies")
	}
	p.set(func() { p.down = true })
	now = now.Add(time.Hour)
	if _, err := i.Verify(tok); err != nil {
		t.Errorf("while the issuer is down: %v", err)
	}
	now = now.Add(24 * time.Hour)
	if _, err := i.Verify(tok); err == nil {
		t.Error("verified by keys a day old")
	}
}

func TestOpenRefuses(t *testing.T) {
	a := rsaKey(t, "a")
	private := jose.JSONWebKey{Key: a.key, KeyID: "a", Algorithm: "RS256", Use: "sig"}
	for name, change := range map[string]func(*provider, *oidc.Config){
		"plain HTTP":        func(_ *provider, c *oidc.Config) { c.Issuer = "http://127.0.0.1/" },
		"no URL":            func(_ *provider, c *oidc.Config) { c.Issuer = "cape" },
		"another name":      func(p *provider, _ *oidc.Config) { p.name = p.URL + "/" },
		"keys over HTTP":    func(_ *provider, c *oidc.Config) { c.Keys = "http://127.0.0.1/keys" },
		"no keys":           func(p *provider, _ *oidc.Config) { p.keys = nil },
		"private keys only": func(p *provider, _ *oidc.Config) { p.keys = []jose.JSONWebKey{private} },
		"down":              func(p *provider, _ *oidc.Config) { p.down = true },
		"not JSON":          func(p *provider, _ *oidc.Config) { p.body = "<html>" },
		"too large":         func(p *provider, _ *oidc.Config) { p.body = `{"keys":[]` + strings.Repeat(" ", wire.MaxJWKS) + "}" },
		"unknown authority": func(_ *provider, c *oidc.Config) { c.HTTP = nil },
	} {
		p := newProvider(t, a.public())
		c := p.config(time.Now)
		change(p, &c)
		if _, err := oidc.Open(t.Context(), c); !errors.Is(err, oidc.ErrIssuer) {
			t.Errorf("%s: %v", name, err)
		}
	}
}
