package token

import (
	"context"
	"fmt"
	"net/http"
	"strings"
	"time"

	"github.com/go-jose/go-jose/v4"
	"github.com/go-jose/go-jose/v4/jwt"

	"github.com/cape-functions/cape/core/wire"
)

// algorithms are those whose keys cannot be shared secrets. RFC 8725, 3.1.
var algorithms = []jose.SignatureAlgorithm{jose.RS256, jose.PS256, jose.ES256, jose.EdDSA}

// maxKeyID bounds a kid, in bytes.
const maxKeyID = 256

// SignedKeys fetches an issuer's key set from the host: a compact JWS signed by the
// issuer's Signer. Its answer is not trusted.
type SignedKeys interface {
	SignedKeys(ctx context.Context, iss string) ([]byte, error)
}

// Config says whose tokens are accepted.
type Config struct {
	// Issuers are those of the measured configuration.
	Issuers []wire.Issuer
	// HTTP reaches the key sets that have a URL; it must not follow redirects.
	HTTP *http.Client
	// Signed reaches the others.
	Signed SignedKeys
	// Now is the security module's time.
	Now func() time.Time
}

// Verifier verifies tokens. It is safe for concurrent use.
type Verifier struct {
	now     func() time.Time
	issuers map[string]*keySet
}

// New returns a Verifier; it fetches nothing before the first token.
func New(cfg Config) (*Verifier, error) {
	v := &Verifier{now: cfg.Now, issuers: make(map[string]*keySet, len(cfg.Issuers))}
	for _, i := range cfg.Issuers {
		if _, ok := v.issuers[i.Iss]; ok {
			return nil, fmt.Errorf("reading issuers: two of the same name")
		}
		f, err := fetcherOf(i, cfg)
		if err != nil {
			return nil, err
		}
		v.issuers[i.Iss] = &keySet{fetch: f, now: cfg.Now}
	}
	return v, nil
}

// Verify returns the claims of a compact JWT. Errors match the sentinels of this package;
// only ErrUnavailable may pass by itself.
func (v *Verifier) Verify(ctx context.Context, raw string) (*Claims, error) {
	if len(raw) > wire.MaxToken || strings.Count(raw, ".") != 2 {
		return nil, ErrMalformed
	}
	parsed, err := jwt.ParseSigned(raw, algorithms)
	if err != nil || len(parsed.Headers) != 1 {
		return nil, ErrMalformed
	}
	h := parsed.Headers[0]
	if !acceptedType(h) || len(h.KeyID) > maxKeyID {
		return nil, ErrMalformed
	}
	var unverified struct {
		Iss string `json:"iss"`
	}
	if err := parsed.UnsafeClaimsWithoutVerification(&unverified); err != nil {
		return nil, ErrMalformed
	}
	keys, ok := v.issuers[unverified.Iss]
	if !ok {
		return nil, ErrIssuer
	}
	candidates, err := keys.find(ctx, h.KeyID, h.Algorithm)
	if err != nil {
		return nil, err
	}
	var p payload
	if err := verifyAny(parsed, candidates, &p); err != nil {
		return nil, err
	}
	return p.check(unverified.Iss, v.now())
}

// acceptedType refuses tokens that say they are something else. RFC 8725, 3.11.
func acceptedType(h jose.Header) bool {
	typ, ok := h.ExtraHeaders[jose.HeaderType]
	if !ok {
		return true
	}
	s, ok := typ.(string)
	return ok && (strings.EqualFold(s, "JWT") || strings.EqualFold(s, "at+jwt"))
}

func verifyAny(t *jwt.JSONWebToken, keys []jose.JSONWebKey, p *payload) error {
	for _, k := range keys {
		var raw map[string]any // tells a bad signature from bad claims
		if t.Claims(k.Key, &raw) != nil {
			continue
		}
		if t.Claims(k.Key, p) != nil {
			return ErrClaims
		}
		return nil
	}
	return ErrSignature
}
