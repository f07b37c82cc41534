package token_test

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"encoding/base64"
	"encoding/json"
	"errors"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/go-jose/go-jose/v4"

	"github.com/cape-functions/cape/core/wire"
	"github.com/cape-functions/cape/enclave/internal/token"
)

func TestRotatedKeysAreFound(t *testing.T) {
	i := newIssuer(t)
	v, c := verifier(t, i)
	if _, err := v.Verify(t.Context(), i.mint(t)); err != nil {
		t.Fatal(err)
	}
	fresh, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	rotated := sign(t, fresh, jose.ES256, map[jose.HeaderKey]any{"kid": "new"}, sound())
	for range 50 { // unknown keys cannot make it fetch all the time
		if _, err := v.Verify(t.Context(), rotated); !errors.Is(err, token.ErrKey) {
			t.Fatalf("before the rotation: %v", err)
		}
	}
	if n := i.count(); n > 2 {
		t.Errorf("%d fetches", n)
	}
	i.keys = map[string]crypto.Signer{"new": fresh}
	c.pass(time.Minute)
	if _, err := v.Verify(t.Context(), rotated); err != nil {
		t.Errorf("after the rotation: %v", err)
	}
	i.keys = keyOnce()
	if _, err := v.Verify(t.Context(), i.mint(t)); !errors.Is(err, token.ErrKey) {
		t.Errorf("key that was taken out: %v", err)
	}
}

func TestKeysServeWhileTheIssuerIsAway(t *testing.T) {
	i := newIssuer(t)
	v, c := verifier(t, i)
	i.down = true
	if _, err := v.Verify(t.Context(), i.mint(t)); !errors.Is(err, token.ErrUnavailable) {
		t.Fatalf("never fetched: %v", err)
	}
	i.down = false
	c.pass(2 * time.Second)
	if _, err := v.Verify(t.Context(), i.mint(t)); err != nil {
		t.Fatal(err)
	}
	i.down = true
	c.pass(time.Hour)
	long := claims{"exp": start().Add(100 * time.Hour).Unix()}
	if _, err := v.Verify(t.Context(), i.mint(t, long)); err != nil {
		t.Errorf("an hour later: %v", err)
	}
	c.pass(12 * time.Hour)
	if _, err := v.Verify(t.Context(), i.mint(t, long)); !errors.Is(err, token.ErrUnavailable) {
		t.Errorf("half a day later: %v", err)
	}
}

func TestSignedKeySets(t *testing.T) {
	_, stranger, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	tests := []struct {
		name string
		lie  func(i *issuer)
	}{
		{"signed by another", func(i *issuer) { i.signer = stranger }},
		{"another issuer's", func(i *issuer) { i.iss = "other" }},
		{"expired", func(i *issuer) { i.exp = start() }},
		{"another type", func(i *issuer) { i.typ = "JWT" }},
		{"garbage", func(i *issuer) { i.raw = []byte("{}") }},
		{"too large", func(i *issuer) { i.raw = make([]byte, wire.MaxJWKS+1) }},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			i := newIssuer(t)
			v, c := verifier(t, i)
			signer, raw := i.signer, i.mint(t)
			tt.lie(i)
			if _, err := v.Verify(t.Context(), raw); !errors.Is(err, token.ErrUnavailable) {
				t.Fatalf("got %v", err)
			}
			i.signer, i.iss, i.exp, i.typ, i.raw = signer, iss, start().Add(24*time.Hour), "cape-jwks", nil
			c.pass(2 * time.Second)
			if _, err := v.Verify(t.Context(), raw); err != nil {
				t.Errorf("once it is right: %v", err)
			}
		})
	}
}

func TestOlderKeySetsAreRefused(t *testing.T) {
	i := newIssuer(t)
	v, c := verifier(t, i)
	if _, err := v.Verify(t.Context(), i.mint(t)); err != nil {
		t.Fatal(err)
	}
	old := i.mint(t)
	i.exp = i.exp.Add(-time.Hour) // the set of an hour ago, with a key that was taken out since
	fresh, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	i.keys = map[string]crypto.Signer{"leaked": fresh}
	c.pass(30 * time.Minute)
	leaked := sign(t, fresh, jose.ES256, map[jose.HeaderKey]any{"kid": "leaked"}, sound())
	if _, err := v.Verify(t.Context(), leaked); !errors.Is(err, token.ErrKey) {
		t.Errorf("got %v", err)
	}
	if _, err := v.Verify(t.Context(), old); err != nil {
		t.Errorf("the newer set's key: %v", err)
	}
}

func TestKeysOfOtherUsesAreLeftOut(t *testing.T) {
	i := newIssuer(t)
	i.keys = map[string]crypto.Signer{}
	entry := func(change map[string]any) map[string]any {
		raw, err := jose.JSONWebKey{Key: keyOnce()["ec"].Public(), KeyID: "k"}.MarshalJSON()
		if err != nil {
			t.Fatal(err)
		}
		var m map[string]any
		if err := json.Unmarshal(raw, &m); err != nil {
			t.Fatal(err)
		}
		for k, v := range change {
			m[k] = v
		}
		return m
	}
	raw := sign(t, keyOnce()["ec"], jose.ES256, map[jose.HeaderKey]any{"kid": "k"}, sound())
	scalar, err := keyOnce()["ec"].(*ecdsa.PrivateKey).Bytes()
	if err != nil {
		t.Fatal(err)
	}
	tests := []struct {
		name  string
		entry map[string]any
		ok    bool
	}{
		{"plain", entry(nil), true},
		{"for encryption", entry(map[string]any{"use": "enc"}), false},
		{"for another algorithm", entry(map[string]any{"alg": "ES384"}), false},
		{"private", entry(map[string]any{"d": base64.RawURLEncoding.EncodeToString(scalar)}), false},
		{"shared secret", map[string]any{"kty": "oct", "kid": "k", "k": "AAAA"}, false},
		{"unknown kind", map[string]any{"kty": "new", "kid": "k"}, false},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			i.extra = []map[string]any{{"kty": "future"}, tt.entry}
			v, _ := verifier(t, i)
			if _, err := v.Verify(t.Context(), raw); (err == nil) != tt.ok {
				t.Errorf("got %v", err)
			}
		})
	}
}

func TestKeySetsByURL(t *testing.T) {
	i := newIssuer(t)
	body, err := json.Marshal(jose.JSONWebKeySet{Keys: []jose.JSONWebKey{{Key: i.keys["rsa"].Public(), KeyID: "rsa"}}})
	if err != nil {
		t.Fatal(err)
	}
	tests := []struct {
		name  string
		serve http.HandlerFunc
		ok    bool
	}{
		{"set", func(w http.ResponseWriter, _ *http.Request) { _, _ = w.Write(body) }, true},
		{"not found", http.NotFound, false},
		{"too large", func(w http.ResponseWriter, _ *http.Request) {
			_, _ = w.Write([]byte(`{"keys":[]` + strings.Repeat(" ", wire.MaxJWKS) + "}"))
		}, false},
		{"too many", func(w http.ResponseWriter, _ *http.Request) {
			_, _ = w.Write([]byte(`{"keys":[` + strings.Repeat("{},", 64) + "{}]}"))
		}, false},
		{"garbage", func(w http.ResponseWriter, _ *http.Request) { _, _ = w.Write([]byte("<html>")) }, false},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			server := httptest.NewTLSServer(tt.serve)
			defer server.Close()
			v, err := token.New(token.Config{Issuers: []wire.Issuer{{Iss: iss, JWKS: &server.URL}}, HTTP: server.Client(), Now: start})
			if err != nil {
				t.Fatal(err)
			}
			if _, err := v.Verify(t.Context(), i.mint(t)); (err == nil) != tt.ok {
				t.Errorf("got %v", err)
			}
		})
	}
}

func TestIssuersThatCannotBeUsed(t *testing.T) {
	plain, local := "http://issuer.example/jwks", "https://user@issuer.example/jwks"
	tests := []struct {
		name    string
		issuers []wire.Issuer
	}{
		{"no TLS", []wire.Issuer{{Iss: iss, JWKS: &plain}}},
		{"user in the URL", []wire.Issuer{{Iss: iss, JWKS: &local}}},
		{"no keys", []wire.Issuer{{Iss: iss}}},
		{"short signer", []wire.Issuer{{Iss: iss, Signer: make([]byte, 31)}}},
		{"twice", []wire.Issuer{{Iss: iss, Signer: make([]byte, 32)}, {Iss: iss, Signer: make([]byte, 32)}}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			if _, err := token.New(token.Config{Issuers: tt.issuers, HTTP: http.DefaultClient, Signed: newIssuer(t), Now: start}); err == nil {
				t.Error("accepted")
			}
		})
	}
}

func FuzzVerify(f *testing.F) {
	signer := ed25519.NewKeyFromSeed(make([]byte, 32))
	i := &issuer{signer: signer, keys: map[string]crypto.Signer{"ed": signer}, exp: start().Add(time.Hour), typ: "cape-jwks", iss: iss}
	header := map[jose.HeaderKey]any{"kid": "ed"}
	for _, c := range []claims{sound(), sound(claims{"exp": 0}), sound(claims{"aud": "x"}), sound(claims{"scope": "function:run"})} {
		f.Add(sign(f, signer, jose.EdDSA, header, c))
	}
	f.Add("..")
	f.Add("eyJhbGciOiJub25lIn0.e30.")
	v, _ := verifier(f, i)
	f.Fuzz(func(t *testing.T, raw string) {
		c, err := v.Verify(t.Context(), raw)
		if err == nil && (c.Subject.Iss != iss || c.Subject.Sub == "") {
			t.Errorf("accepted without a subject: %q", raw)
		}
	})
}
