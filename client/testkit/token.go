package testkit

import (
	"encoding/base64"
	"encoding/json"
	"errors"
	"net/http"
	"strings"
	"time"

	"github.com/cape-functions/cape/core/wire"
)

// Token returns a token of the user for an hour: three parts, as a JWT, whose signature
// is not one.
func Token(user string) string { return TokenUntil(user, time.Now().Add(time.Hour)) }

// TokenUntil returns a token that expires at the time.
func TokenUntil(user string, exp time.Time) string {
	return encodeToken(map[string]any{"iss": "fake", "sub": user + "|1", "aud": []string{wire.Audience}, "exp": exp.Unix(), wire.ClaimUsername: user})
}

// AccessToken returns a token without a username, as personal access tokens are.
func AccessToken(user string) string {
	return encodeToken(map[string]any{"iss": "fake", "sub": user + "|1", "aud": []string{wire.Audience}})
}

// IDToken returns the id token of a login.
func IDToken(user string) string { return encodeToken(map[string]any{"nickname": user}) }

func encodeToken(claims map[string]any) string {
	payload, err := json.Marshal(claims)
	if err != nil {
		panic(err)
	}
	return base64.RawURLEncoding.EncodeToString([]byte(`{"alg":"none"}`)) + "." + base64.RawURLEncoding.EncodeToString(payload) + ".c2ln"
}

// userOf returns the user of a request's token.
func userOf(r *http.Request) (string, error) {
	token, ok := strings.CutPrefix(r.Header.Get("Authorization"), "Bearer ")
	for _, line := range r.Header.Values("Sec-WebSocket-Protocol") {
		for value := range strings.SplitSeq(line, ",") {
			if value = strings.TrimSpace(value); strings.Contains(value, ".") && !strings.HasPrefix(value, "cape.") {
				token, ok = value, true
			}
		}
	}
	if !ok {
		return "", errors.New("there is no token")
	}
	return userOfToken(token)
}

// userOfToken returns the user that a token names.
func userOfToken(token string) (string, error) {
	parts := strings.Split(token, ".")
	if len(parts) != 3 {
		return "", errors.New("there is no token")
	}
	payload, err := base64.RawURLEncoding.DecodeString(parts[1])
	if err != nil {
		return "", errors.New("token cannot be read")
	}
	var claims struct {
		Sub string
		Exp int64
	}
	if err := json.Unmarshal(payload, &claims); err != nil || claims.Sub == "" {
		return "", errors.New("token cannot be read")
	}
	if claims.Exp != 0 && time.Unix(claims.Exp, 0).Before(time.Now()) {
		return "", errors.New("token is expired")
	}
	return strings.TrimSuffix(claims.Sub, "|1"), nil
}
