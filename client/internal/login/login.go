// Package login reads the stored login and what tokens say about themselves.
package login

import (
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/cape-functions/cape/client/internal/lockfile"
	"github.com/cape-functions/cape/core/wire"
)

// Sentinels.
var (
	// ErrNone: nobody is logged in.
	ErrNone = errors.New("nobody is logged in")
	// ErrFile: the stored login cannot be read.
	ErrFile = errors.New("stored login cannot be read")
)

const maxFile = 64 << 10

// Auth is the stored login. It is secret: do not print it.
type Auth struct {
	AccessToken  string    `json:"access_token"`
	TokenType    string    `json:"token_type"`
	RefreshToken string    `json:"refresh_token"`
	Expiry       time.Time `json:"expiry"`
	IDToken      string    `json:"id_token"`
}

// Read reads the login stored at path. Errors match ErrNone or ErrFile.
func Read(path string) (*Auth, error) {
	data, err := lockfile.Read(path, maxFile)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrFile, err)
	}
	if data == nil {
		return nil, fmt.Errorf("%w: there is no %s", ErrNone, path)
	}
	var a Auth
	if err := json.Unmarshal(data, &a); err != nil {
		return nil, fmt.Errorf("%w: %s is not the JSON of a login", ErrFile, path)
	}
	if a.AccessToken == "" {
		return nil, fmt.Errorf("%w: %s holds no access token", ErrFile, path)
	}
	return &a, nil
}

// Username returns the name of who is logged in, empty if the tokens do not tell.
func (a *Auth) Username() string {
	if name := Claims(a.AccessToken).Username; name != "" {
		return name
	}
	return Claims(a.IDToken).Nickname
}

// TokenClaims is what a token says. Nothing of it is verified: it names files and
// fills in messages, and decides nothing.
type TokenClaims struct {
	Issuer   string
	Subject  string
	Username string
	Nickname string
}

// Claims reads a token; what is not there, or is no token, gives empty claims.
func Claims(token string) TokenClaims {
	parts := strings.Split(token, ".")
	if len(parts) != 3 || len(token) > wire.MaxToken {
		return TokenClaims{}
	}
	payload, err := base64.RawURLEncoding.DecodeString(strings.TrimRight(parts[1], "="))
	if err != nil {
		return TokenClaims{}
	}
	var raw map[string]any
	if err := json.Unmarshal(payload, &raw); err != nil {
		return TokenClaims{}
	}
	text := func(name string) string {
		s, _ := raw[name].(string)
		return s
	}
	return TokenClaims{Issuer: text("iss"), Subject: text("sub"), Username: text(wire.ClaimUsername), Nickname: text("nickname")}
}
