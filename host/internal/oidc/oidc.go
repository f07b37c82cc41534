// Package oidc verifies the tokens of an OpenID Connect issuer by the keys that
// it publishes, as the plain routes of the API need it. Tokens meter and admit;
// enclaves verify them again, by keys that they fetch themselves.
package oidc

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/url"
	"strings"
	"sync"
	"time"

	"github.com/go-jose/go-jose/v4"
	"github.com/go-jose/go-jose/v4/jwt"

	"github.com/cape-functions/cape/core/wire"
	"github.com/cape-functions/cape/host/internal/identity"
)

const (
	callWait = 10 * time.Second
	// fresh is how long fetched keys are used without asking again; a token of a
	// key that is not among them makes us ask earlier, but not more often than pause.
	fresh = 10 * time.Minute
	pause = 30 * time.Second
	// stale is how long they are used when the issuer does not answer.
	stale  = 24 * time.Hour
	leeway = time.Minute
)

// ErrIssuer: the issuer cannot be used, or does not answer.
var ErrIssuer = errors.New("unusable issuer")

// Config says whose tokens are verified.
type Config struct {
	// Issuer is the "iss" of tokens: an https URL.
	Issuer string
	// Keys is the https URL of its key set (RFC 7517); empty: what
	// ISSUER/.well-known/openid-configuration says.
	Keys string
	// HTTP makes the calls; nil means a client with the system's roots.
	HTTP *http.Client
	Now  func() time.Time
	Log  *slog.Logger
}

// Issuer verifies tokens. It is safe for concurrent use.
type Issuer struct {
	cfg Config

	fetching sync.Mutex // one call at a time
	mu       sync.Mutex
	set      jose.JSONWebKeySet
	at       time.Time // of the last good answer
	tried    time.Time
}

// Open finds the issuer's keys and fetches them once. Errors wrap ErrIssuer.
func Open(ctx context.Context, cfg Config) (*Issuer, error) {
	if err := CheckURL(cfg.Issuer); err != nil {
		return nil, err
	}
	if cfg.HTTP == nil {
		cfg.HTTP = &http.Client{Timeout: callWait, CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }}
	}
	i := &Issuer{cfg: cfg}
	if cfg.Keys == "" {
		var d struct {
			Issuer string `json:"issuer"`
			Keys   string `json:"jwks_uri"`
		}
		if err := i.get(ctx, strings.TrimSuffix(cfg.Issuer, "/")+"/.well-known/openid-configuration", &d); err != nil {
			return nil, err
		}
		if d.Issuer != cfg.Issuer {
			return nil, fmt.Errorf("%w: it calls itself %q, not %q: write it as it does", ErrIssuer, d.Issuer, cfg.Issuer)
		}
		i.cfg.Keys = d.Keys
	}
	if err := CheckURL(i.cfg.Keys); err != nil {
		return nil, err
	}
	if err := i.fetch(ctx); err != nil {
		return nil, err
	}
	return i, nil
}

// CheckURL tells whether a URL is one of https, without user, query or fragment.
// Errors wrap ErrIssuer.
func CheckURL(text string) error {
	u, err := url.Parse(text)
	if err != nil || u.Scheme != "https" || u.Host == "" || u.User != nil || u.RawQuery != "" || u.Fragment != "" || len(text) > 1024 {
		return fmt.Errorf("%w: %q needs the form https://HOST/PATH", ErrIssuer, text)
	}
	return nil
}

// Trust is how a runtime's configuration names this issuer.
func (i *Issuer) Trust() wire.Issuer {
	keys := i.cfg.Keys
	return wire.Issuer{Iss: i.cfg.Issuer, JWKS: &keys}
}

// get fetches a JSON document of at most wire.MaxJWKS bytes.
func (i *Issuer) get(ctx context.Context, from string, v any) error {
	ctx, cancel := context.WithTimeout(ctx, callWait)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, from, nil)
	if err != nil {
		return fmt.Errorf("%w: %w", ErrIssuer, err)
	}
	resp, err := i.cfg.HTTP.Do(req)
	if err != nil {
		return fmt.Errorf("%w: %w", ErrIssuer, err)
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		return fmt.Errorf("%w: %s answered %s", ErrIssuer, from, resp.Status)
	}
	text, err := io.ReadAll(io.LimitReader(resp.Body, wire.MaxJWKS+1))
	switch {
	case err != nil:
		return fmt.Errorf("%w: reading %s: %w", ErrIssuer, from, err)
	case len(text) > wire.MaxJWKS:
		return fmt.Errorf("%w: %s has more than %d bytes", ErrIssuer, from, wire.MaxJWKS)
	}
	if err := json.Unmarshal(text, v); err != nil {
		return fmt.Errorf("%w: %s is not the JSON that was expected", ErrIssuer, from)
	}
	return nil
}

// fetch replaces the keys.
func (i *Issuer) fetch(ctx context.Context) error {
	var set jose.JSONWebKeySet
	err := i.get(ctx, i.cfg.Keys, &set)
	i.mu.Lock()
	defer i.mu.Unlock()
	i.tried = i.cfg.Now()
	if err != nil {
		return err
	}
	var public jose.JSONWebKeySet
	for _, k := range set.Keys {
		if k.IsPublic() && k.Valid() && (k.Use == "" || k.Use == "sig") {
			public.Keys = append(public.Keys, k)
		}
	}
	if len(public.Keys) == 0 {
		return fmt.Errorf("%w: %s holds no key for signatures", ErrIssuer, i.cfg.Keys)
	}
	i.set, i.at = public, i.tried
	return nil
}

// keys returns the keys that may have signed a token with this header; asking
// the issuer when they are old or none fits.
func (i *Issuer) keys(ctx context.Context, kid, alg string) []jose.JSONWebKey {
	found, due := i.look(kid, alg)
	if !due {
		return found
	}
	i.fetching.Lock()
	defer i.fetching.Unlock()
	if found, due = i.look(kid, alg); !due { // somebody else asked meanwhile
		return found
	}
	if err := i.fetch(ctx); err != nil {
		i.cfg.Log.Warn("fetching the issuer's keys", "error", err)
	}
	found, _ = i.look(kid, alg)
	return found
}

// look finds keys and tells whether the issuer should be asked.
func (i *Issuer) look(kid, alg string) (found []jose.JSONWebKey, due bool) {
	i.mu.Lock()
	defer i.mu.Unlock()
	now := i.cfg.Now()
	if now.Sub(i.at) <= stale {
		for _, k := range i.set.Keys {
			if (kid == "" || k.KeyID == kid) && (k.Algorithm == "" || k.Algorithm == alg) {
				found = append(found, k)
			}
		}
	}
	due = (len(found) == 0 || now.Sub(i.at) > fresh) && now.Sub(i.tried) >= pause
	return found, due
}

// Verify checks an access token. Errors: identity.ErrToken, identity.ErrExpired;
// neither says anything of the token's content.
func (i *Issuer) Verify(token string) (*identity.Claims, error) {
	if len(token) > wire.MaxToken {
		return nil, identity.ErrToken
	}
	t, err := jwt.ParseSigned(token, []jose.SignatureAlgorithm{jose.RS256, jose.PS256, jose.ES256})
	if err != nil || len(t.Headers) != 1 {
		return nil, identity.ErrToken
	}
	ctx, cancel := context.WithTimeout(context.Background(), callWait)
	defer cancel()
	keys := i.keys(ctx, t.Headers[0].KeyID, t.Headers[0].Algorithm)
	if len(keys) != 1 { // none, or no kid and a choice
		return nil, identity.ErrToken
	}
	var c jwt.Claims
	more := map[string]any{}
	if err := t.Claims(keys[0].Key, &c, &more); err != nil {
		return nil, identity.ErrToken
	}
	err = c.ValidateWithLeeway(jwt.Expected{Issuer: i.cfg.Issuer, AnyAudience: jwt.Audience{wire.Audience}, Time: i.cfg.Now()}, leeway)
	switch {
	case errors.Is(err, jwt.ErrExpired):
		return nil, identity.ErrExpired
	case err != nil || c.Expiry == nil || c.Subject == "":
		return nil, identity.ErrToken
	}
	username, _ := more[wire.ClaimUsername].(string)
	return &identity.Claims{Owner: wire.Subject{Iss: c.Issuer, Sub: c.Subject}, Username: username, ID: c.ID}, nil
}

// KeySet returns the keys that are known, as JSON (RFC 7517).
func (i *Issuer) KeySet() ([]byte, error) {
	i.mu.Lock()
	defer i.mu.Unlock()
	return json.Marshal(i.set)
}
