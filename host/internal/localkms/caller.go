package localkms

import (
	"crypto/rand"
	"crypto/sha256"
	"encoding/base32"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"regexp"
	"strings"
	"time"

	"github.com/cape-functions/cape/core/wire"
	"github.com/cape-functions/cape/host/internal/localkms/keystore"
	"github.com/cape-functions/cape/host/internal/localkms/policy"
)

const (
	// credentialsLife is how long minted credentials are good for.
	credentialsLife = time.Hour
	// sessionName is the session part of every assumed role's ARN.
	sessionName  = "localkms"
	maxToken     = 4 << 10
	tokenPurpose = "session token 1"
)

var (
	rolePattern    = regexp.MustCompile(`^arn:(aws[a-z-]*):iam::([0-9]{12}):role/((?:[\x21-\x29\x2b-\x3e\x40-\x7e]+/)?)([A-Za-z0-9+=,.@_-]{1,64})$`)
	userPattern    = regexp.MustCompile(`^arn:(aws[a-z-]*):iam::([0-9]{12}):(?:root|user/(?:[\x21-\x29\x2b-\x3e\x40-\x7e]+/)?([A-Za-z0-9+=,.@_-]{1,64}))$`)
	sessionPattern = regexp.MustCompile(`^arn:aws[a-z-]*:sts::[0-9]{12}:assumed-role/[A-Za-z0-9+=,.@_-]{1,64}/[A-Za-z0-9+=,.@_-]{2,64}$`)
)

// caller is who signed a request.
type caller struct {
	policy.Principal
	kind     string // aws:PrincipalType
	userID   string // aws:userid
	userName string // aws:username
}

// identity is the ARN that GetCallerIdentity and error messages tell.
func (c caller) identity() string {
	if c.Session != "" {
		return c.Session
	}
	return c.ARN
}

// newCaller reads a principal's ARN; false for what is none.
func newCaller(arn string) (caller, bool) {
	if len(arn) > 1024 {
		return caller{}, false
	}
	if m := rolePattern.FindStringSubmatch(arn); m != nil {
		session := fmt.Sprintf("arn:%s:sts::%s:assumed-role/%s/%s", m[1], m[2], m[4], sessionName)
		return caller{
			Principal: policy.Principal{ARN: arn, Session: session, Account: m[2]},
			kind:      "AssumedRole",
			userID:    uniqueID("AROA", arn) + ":" + sessionName,
		}, true
	}
	m := userPattern.FindStringSubmatch(arn)
	if m == nil {
		return caller{}, false
	}
	c := caller{Principal: policy.Principal{ARN: arn, Account: m[2]}, kind: "Account", userID: m[2]}
	if m[3] != "" {
		c.kind, c.userID, c.userName = "User", uniqueID("AIDA", arn), m[3]
	}
	return c, true
}

// uniqueID makes an identifier of AWS's form that stays with its ARN.
func uniqueID(prefix, arn string) string {
	sum := sha256.Sum256([]byte(arn))
	return prefix + base32.StdEncoding.EncodeToString(sum[:])[:17]
}

// sessionToken is what a token holds, sealed: the server keeps no list of the
// credentials that it minted.
type sessionToken struct {
	Principal string    `json:"p"`
	KeyID     string    `json:"k"`
	Secret    string    `json:"s"`
	Expires   time.Time `json:"x"`
}

// Credentials mints credentials, valid for an hour, for the principal whose
// ARN is given: a role ("arn:aws:iam::123456789012:role/NAME", which gets an
// assumed-role session), a user, or an account's root. They outlive the
// Server. For anything else they are empty.
func (s *Server) Credentials(principal string) wire.Credentials {
	if _, ok := newCaller(principal); !ok {
		return wire.Credentials{}
	}
	raw := make([]byte, 40)
	_, _ = rand.Read(raw) // never fails (crypto/rand)
	t := sessionToken{
		Principal: principal,
		KeyID:     "ASIA" + base32.StdEncoding.EncodeToString(raw[:10]),
		Secret:    base64.StdEncoding.EncodeToString(raw[10:]),
		Expires:   s.now().Add(credentialsLife).UTC().Truncate(time.Second),
	}
	plain, err := json.Marshal(t)
	if err != nil {
		return wire.Credentials{}
	}
	sealed, err := keystore.Seal(s.tokenKey, tokenPurpose, nil, plain)
	if err != nil {
		return wire.Credentials{}
	}
	return wire.Credentials{
		AccessKeyID:     t.KeyID,
		SecretAccessKey: t.Secret,
		Token:           base64.StdEncoding.EncodeToString(sealed),
		Expiration:      t.Expires.Format(time.RFC3339),
	}
}

var errToken = errors.New("session token was not minted here")

// openToken returns what a session token says, if it was minted here for the
// access key.
func (s *Server) openToken(token, keyID string) (sessionToken, error) {
	var t sessionToken
	if len(token) > maxToken {
		return t, errToken
	}
	sealed, err := base64.StdEncoding.DecodeString(strings.TrimSpace(token))
	if err != nil {
		return t, errToken
	}
	plain, err := keystore.Unseal(s.tokenKey, tokenPurpose, nil, sealed)
	if err != nil {
		return t, errToken
	}
	if err := json.Unmarshal(plain, &t); err != nil || t.KeyID != keyID {
		return sessionToken{}, errToken
	}
	return t, nil
}
