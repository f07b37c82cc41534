package token

import (
	"fmt"
	"strings"
	"time"

	"github.com/go-jose/go-jose/v4/jwt"

	"github.com/cape-functions/cape/core/wire"
)

// Claims are what a verified token says.
type Claims struct {
	// Subject is the user as the issuer names it.
	Subject wire.Subject
	// Username is the user's public name; empty when the token has none.
	Username string
	// ID is the token's own identifier (jti), empty when it has none.
	ID string
	// FunctionID limits the token to one function; empty: any.
	FunctionID string
	// Expiry is when the token ends.
	Expiry time.Time

	scopes []string
}

// Scopes that limit a token. A token that names none of them may do what its user may:
// tokens of a login carry the scopes of OpenID Connect, which say nothing here.
const (
	scopePrefix = "function:"
	scopeRun    = "function:run"
	scopeInvoke = "function:invoke" // the original platform's name of scopeRun
	scopeDeploy = "function:deploy"
)

// MayRun tells whether the token may run the function with this id.
func (c *Claims) MayRun(id string) bool {
	return (c.FunctionID == "" || c.FunctionID == id) && c.allows(scopeRun, scopeInvoke)
}

// MayManage tells whether the token may deploy, test, and ask for its user's key.
func (c *Claims) MayManage() bool { return c.FunctionID == "" && c.allows(scopeDeploy) }

func (c *Claims) allows(names ...string) bool {
	limited := false
	for _, s := range c.scopes {
		for _, n := range names {
			if s == n {
				return true
			}
		}
		limited = limited || strings.HasPrefix(s, scopePrefix)
	}
	return !limited
}

// payload is the JSON of a token. Other claims are ignored.
type payload struct {
	Iss        string           `json:"iss"`
	Sub        string           `json:"sub"`
	Aud        jwt.Audience     `json:"aud"`
	Exp        *jwt.NumericDate `json:"exp"`
	Nbf        *jwt.NumericDate `json:"nbf"`
	Iat        *jwt.NumericDate `json:"iat"`
	Jti        string           `json:"jti"`
	Username   string           `json:"https://capeprivacy.com/username"`
	Scope      string           `json:"scope"`
	FunctionID string           `json:"function_id"`
}

// maxName bounds iss and sub in bytes: both stand in manifests.
const maxName = 512

// check validates what the issuer signed at the time now.
func (p *payload) check(iss string, now time.Time) (*Claims, error) {
	switch {
	case p.Iss != iss:
		return nil, fmt.Errorf("%w: it names two issuers", ErrClaims)
	case p.Sub == "" || len(p.Sub) > maxName || len(p.Iss) > maxName:
		return nil, fmt.Errorf("%w: no subject, or one of more than %d bytes", ErrClaims, maxName)
	case len(p.Jti) > maxName:
		return nil, fmt.Errorf("%w: an identifier of more than %d bytes", ErrClaims, maxName)
	case !p.Aud.Contains(wire.Audience):
		return nil, ErrAudience
	case p.Exp == nil:
		return nil, fmt.Errorf("%w: it has no expiry", ErrClaims)
	case p.FunctionID != "" && !wire.ValidID(p.FunctionID):
		return nil, fmt.Errorf("%w: its function_id is no function id", ErrClaims)
	case p.Username != "" && !wire.ValidUsername(p.Username):
		return nil, fmt.Errorf("%w: its username cannot stand in a route", ErrClaims)
	}
	if err := p.checkTimes(now); err != nil {
		return nil, err
	}
	return &Claims{
		Subject:    wire.Subject{Iss: p.Iss, Sub: p.Sub},
		Username:   p.Username,
		ID:         p.Jti,
		FunctionID: p.FunctionID,
		Expiry:     p.Exp.Time(),
		scopes:     strings.Fields(p.Scope),
	}, nil
}

// checkTimes allows no leeway at the end of a token's life, and wire.ClockSkew at its start:
// the issuer's clock may be ahead of the security module's.
func (p *payload) checkTimes(now time.Time) error {
	ahead := now.Add(wire.ClockSkew)
	switch {
	case !now.Before(p.Exp.Time()):
		return ErrExpired
	case p.Nbf != nil && p.Nbf.Time().After(ahead):
		return ErrNotYet
	case p.Iat != nil && p.Iat.Time().After(ahead):
		return ErrNotYet
	}
	return nil
}
