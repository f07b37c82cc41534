package token_test

import (
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"encoding/base64"
	"encoding/json"
	"errors"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/go-jose/go-jose/v4"
	"github.com/go-jose/go-jose/v4/jwt"

	"github.com/cape-functions/cape/core/wire"
	"github.com/cape-functions/cape/enclave/internal/token"
)

const iss = "cape-dev-1"

func start() time.Time { return time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC) }

// issuer is an identity provider whose key set comes by way of the host.
type issuer struct {
	signer ed25519.PrivateKey
	keys   map[string]crypto.Signer // by kid
	extra  []map[string]any         // further entries of the set
	exp    time.Time
	typ    string
	iss    string

	mu      sync.Mutex
	fetches int
	down    bool
	raw     []byte // served instead
}

var keyOnce = sync.OnceValue(func() map[string]crypto.Signer {
	r, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		panic(err)
	}
	e, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		panic(err)
	}
	_, d, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		panic(err)
	}
	return map[string]crypto.Signer{"rsa": r, "ec": e, "ed": d}
})

func newIssuer(t *testing.T) *issuer {
	t.Helper()
	_, signer, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return &issuer{signer: signer, keys: keyOnce(), exp: start().Add(24 * time.Hour), typ: "cape-jwks", iss: iss}
}

func sign(t testing.TB, key any, alg jose.SignatureAlgorithm, header map[jose.HeaderKey]any, payload any) string {
	t.Helper()
	s, err := jose.NewSigner(jose.SigningKey{Algorithm: alg, Key: key}, &jose.SignerOptions{ExtraHeaders: header})
	if err != nil {
		t.Fatal(err)
	}
	out, err := jwt.Signed(s).Claims(payload).Serialize()
	if err != nil {
		t.Fatal(err)
	}
	return out
}

func (i *issuer) SignedKeys(_ context.Context, name string) ([]byte, error) {
	i.mu.Lock()
	defer i.mu.Unlock()
	i.fetches++
	if i.down || name != iss {
		return nil, errors.New("down")
	}
	if i.raw != nil {
		return i.raw, nil
	}
	set := []any{}
	for kid, k := range i.keys {
		set = append(set, jose.JSONWebKey{Key: k.Public(), KeyID: kid, Use: "sig"})
	}
	for _, e := range i.extra {
		set = append(set, e)
	}
	s, err := jose.NewSigner(jose.SigningKey{Algorithm: jose.EdDSA, Key: i.signer},
		&jose.SignerOptions{ExtraHeaders: map[jose.HeaderKey]any{"typ": i.typ}})
	if err != nil {
		return nil, err
	}
	body, err := json.Marshal(map[string]any{"iss": i.iss, "exp": i.exp.Unix(), "keys": set})
	if err != nil {
		return nil, err
	}
	jws, err := s.Sign(body)
	if err != nil {
		return nil, err
	}
	out, err := jws.CompactSerialize()
	return []byte(out), err
}

func (i *issuer) count() int {
	i.mu.Lock()
	defer i.mu.Unlock()
	return i.fetches
}

// clock is a settable time.
type clock struct {
	mu sync.Mutex
	t  time.Time
}

func (c *clock) now() time.Time {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.t
}

func (c *clock) pass(d time.Duration) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.t = c.t.Add(d)
}

func verifier(t testing.TB, i *issuer) (*token.Verifier, *clock) {
	t.Helper()
	c := &clock{t: start()}
	v, err := token.New(token.Config{
		Issuers: []wire.Issuer{{Iss: iss, Signer: i.signer.Public().(ed25519.PublicKey)}}, Signed: i, Now: c.now,
	})
	if err != nil {
		t.Fatal(err)
	}
	return v, c
}

type claims = map[string]any

func sound(change ...claims) claims {
	c := claims{"iss": iss, "sub": "dev|1", "aud": []string{wire.Audience}, "exp": start().Add(time.Hour).Unix(),
		"iat": start().Unix(), "jti": "id1", wire.ClaimUsername: "dev"}
	for _, m := range change {
		for k, v := range m {
			if v == nil {
				delete(c, k)
				continue
			}
			c[k] = v
		}
	}
	return c
}

func (i *issuer) mint(t testing.TB, change ...claims) string {
	t.Helper()
	return sign(t, i.keys["rsa"], jose.RS256, map[jose.HeaderKey]any{"kid": "rsa"}, sound(change...))
}

func TestSoundTokens(t *testing.T) {
	i := newIssuer(t)
	kid := func(k string) map[jose.HeaderKey]any { return map[jose.HeaderKey]any{"kid": k} }
	tests := []struct {
		name string
		raw  string
	}{
		{"RS256", sign(t, i.keys["rsa"], jose.RS256, kid("rsa"), sound())},
		{"PS256", sign(t, i.keys["rsa"], jose.PS256, kid("rsa"), sound())},
		{"ES256", sign(t, i.keys["ec"], jose.ES256, kid("ec"), sound())},
		{"EdDSA", sign(t, i.keys["ed"], jose.EdDSA, kid("ed"), sound())},
		{"without kid, one key of the algorithm", sign(t, i.keys["ec"], jose.ES256, nil, sound())},
		{"typ JWT", sign(t, i.keys["ec"], jose.ES256, map[jose.HeaderKey]any{"typ": "jwt"}, sound())},
		{"one audience", i.mint(t, claims{"aud": wire.Audience})},
		{"several audiences", i.mint(t, claims{"aud": []string{"x", wire.Audience}})},
		{"no optional claims", i.mint(t, claims{"iat": nil, "jti": nil, wire.ClaimUsername: nil})},
		{"clock of the issuer ahead", i.mint(t, claims{"iat": start().Add(4 * time.Minute).Unix(), "nbf": start().Add(4 * time.Minute).Unix()})},
		{"unknown claims", i.mint(t, claims{"azp": "client", "gty": 3})},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			v, _ := verifier(t, i)
			c, err := v.Verify(t.Context(), tt.raw)
			if err != nil {
				t.Fatal(err)
			}
			if c.Subject != (wire.Subject{Iss: iss, Sub: "dev|1"}) {
				t.Errorf("subject %v", c.Subject)
			}
		})
	}
}

func TestRefusedTokens(t *testing.T) {
	i := newIssuer(t)
	other, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		t.Fatal(err)
	}
	weak, err := rsa.GenerateKey(rand.Reader, 1024)
	if err != nil {
		t.Fatal(err)
	}
	i.keys = map[string]crypto.Signer{"rsa": i.keys["rsa"], "ec": i.keys["ec"], "ed": i.keys["ed"], "weak": weak, "other": other}
	kid := func(k string) map[jose.HeaderKey]any { return map[jose.HeaderKey]any{"kid": k} }
	public, err := json.Marshal(i.keys["rsa"].Public())
	if err != nil {
		t.Fatal(err)
	}
	parts := strings.Split(i.mint(t), ".")
	none := base64.RawURLEncoding.EncodeToString([]byte(`{"alg":"none","kid":"rsa"}`))
	tests := []struct {
		name string
		raw  string
		want error
	}{
		{"empty", "", token.ErrMalformed},
		{"garbage", "a.b.c", token.ErrMalformed},
		{"too long", i.mint(t, claims{"x": strings.Repeat("x", wire.MaxToken)}), token.ErrMalformed},
		{"alg none", none + "." + parts[1] + ".", token.ErrMalformed},
		{"alg none, signature kept", none + "." + parts[1] + "." + parts[2], token.ErrMalformed},
		{"HS256 with the public key", sign(t, public, jose.HS256, kid("rsa"), sound()), token.ErrMalformed},
		{"RS512", sign(t, i.keys["rsa"], jose.RS512, kid("rsa"), sound()), token.ErrMalformed},
		{"another type", sign(t, i.keys["rsa"], jose.RS256, map[jose.HeaderKey]any{"kid": "rsa", "typ": "cape-jwks"}, sound()), token.ErrMalformed},
		{"kid too long", sign(t, i.keys["rsa"], jose.RS256, kid(strings.Repeat("k", 257)), sound()), token.ErrMalformed},
		{"critical header", sign(t, i.keys["rsa"], jose.RS256, map[jose.HeaderKey]any{"kid": "rsa", "crit": []string{"x"}, "x": 1}, sound()), token.ErrSignature},
		{"other issuer", i.mint(t, claims{"iss": "evil"}), token.ErrIssuer},
		{"no issuer", i.mint(t, claims{"iss": nil}), token.ErrIssuer},
		{"unknown kid", sign(t, other, jose.RS256, kid("nobody"), sound()), token.ErrKey},
		{"no kid, two keys", sign(t, i.keys["rsa"], jose.RS256, nil, sound()), token.ErrKey},
		{"kid of another algorithm", sign(t, i.keys["rsa"], jose.RS256, kid("ec"), sound()), token.ErrKey},
		{"weak key", sign(t, weak, jose.RS256, kid("weak"), sound()), token.ErrKey},
		{"other key under this kid", sign(t, other, jose.RS256, kid("rsa"), sound()), token.ErrSignature},
		{"payload changed", parts[0] + "." + strings.Split(i.mint(t, claims{"sub": "root|0"}), ".")[1] + "." + parts[2], token.ErrSignature},
		{"signature cut", parts[0] + "." + parts[1] + "." + parts[2][:20], token.ErrSignature},
		{"expired", i.mint(t, claims{"exp": start().Add(-time.Second).Unix()}), token.ErrExpired},
		{"expires now", i.mint(t, claims{"exp": start().Unix()}), token.ErrExpired},
		{"no expiry", i.mint(t, claims{"exp": nil}), token.ErrClaims},
		{"not yet", i.mint(t, claims{"nbf": start().Add(time.Hour).Unix()}), token.ErrNotYet},
		{"issued in the future", i.mint(t, claims{"iat": start().Add(time.Hour).Unix()}), token.ErrNotYet},
		{"other audience", i.mint(t, claims{"aud": "somebody"}), token.ErrAudience},
		{"no audience", i.mint(t, claims{"aud": nil}), token.ErrAudience},
		{"no subject", i.mint(t, claims{"sub": nil}), token.ErrClaims},
		{"subject too long", i.mint(t, claims{"sub": strings.Repeat("s", 513)}), token.ErrClaims},
		{"subject a number", i.mint(t, claims{"sub": 7}), token.ErrClaims},
		{"username no route could hold", i.mint(t, claims{wire.ClaimUsername: "../x"}), token.ErrClaims},
		{"function id of another form", i.mint(t, claims{"function_id": "x"}), token.ErrClaims},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			v, _ := verifier(t, i)
			if _, err := v.Verify(t.Context(), tt.raw); !errors.Is(err, tt.want) {
				t.Errorf("got %v, want %v", err, tt.want)
			}
			if _, err := v.Verify(t.Context(), i.mint(t, claims{"sub": "next"}, claims{"iat": nil})); err != nil {
				t.Errorf("the next token: %v", err)
			}
		})
	}
}
