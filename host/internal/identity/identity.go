// Package identity is the identity provider of a platform: it names users in
// tokens, and publishes the keys that verify them. Its keys admit and meter;
// they are no authority against the host, which could mint any token: what a
// function may see is decided inside the enclave.
package identity

import (
	"crypto"
	"crypto/ed25519"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/x509"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/go-jose/go-jose/v4"
	"github.com/go-jose/go-jose/v4/jwt"

	"github.com/cape-functions/cape/core/wire"
)

// Lifetimes.
const (
	// KeySetLife is how long a signed key set is valid for the runtime.
	KeySetLife = 24 * time.Hour
	leeway     = time.Minute
)

// typeKeySet is the JWS type of a signed key set: nothing else that the key
// signs can be taken for one.
const typeKeySet = "cape-jwks"

// Sentinels of Verify.
var (
	ErrToken   = errors.New("token is not valid")
	ErrExpired = errors.New("token is expired")
)

// Provider issues and verifies tokens. It is safe for concurrent use.
type Provider struct {
	name   string
	token  *rsa.PrivateKey
	kid    string
	keyset ed25519.PrivateKey
	now    func() time.Time
}

// User is who a token is about.
type User struct {
	Subject  string // "dev|1"
	Username string // "dev"
}

// Claims are what a verified token says.
type Claims struct {
	Owner    wire.Subject
	Username string
	ID       string // jti
}

// Open reads the provider kept in dir, or makes one there: its name and its
// keys are made once, so that what enclaves and clients trust never changes
// with an address or a restart.
func Open(dir string, now func() time.Time) (*Provider, error) {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, fmt.Errorf("opening identity provider: %w", err)
	}
	p := &Provider{now: now}
	name, err := keep(filepath.Join(dir, "issuer"), newName)
	if err != nil {
		return nil, err
	}
	p.name = strings.TrimSpace(string(name))
	key, err := keepKey(filepath.Join(dir, "token.key"), func() (crypto.Signer, error) { return rsa.GenerateKey(rand.Reader, 2048) })
	if err != nil {
		return nil, err
	}
	var ok bool
	if p.token, ok = key.(*rsa.PrivateKey); !ok {
		return nil, fmt.Errorf("%s does not hold an RSA key", filepath.Join(dir, "token.key"))
	}
	key, err = keepKey(filepath.Join(dir, "keyset.key"), func() (crypto.Signer, error) {
		_, k, err := ed25519.GenerateKey(rand.Reader)
		return k, err
	})
	if err != nil {
		return nil, err
	}
	if p.keyset, ok = key.(ed25519.PrivateKey); !ok {
		return nil, fmt.Errorf("%s does not hold an Ed25519 key", filepath.Join(dir, "keyset.key"))
	}
	sum := sha256.Sum256(x509.MarshalPKCS1PublicKey(&p.token.PublicKey))
	p.kid = base64.RawURLEncoding.EncodeToString(sum[:12])
	return p, nil
}

func newName() ([]byte, error) {
	b := make([]byte, 8)
	if _, err := rand.Read(b); err != nil {
		return nil, err
	}
	return []byte("cape-dev-" + hex.EncodeToString(b) + "\n"), nil
}

// keep reads path, or writes there what make returns: atomically, mode 0600.
func keep(path string, make func() ([]byte, error)) ([]byte, error) {
	b, err := os.ReadFile(path)
	if err == nil || !errors.Is(err, os.ErrNotExist) {
		return b, err
	}
	if b, err = make(); err != nil {
		return nil, err
	}
	f, err := os.CreateTemp(filepath.Dir(path), ".new-*")
	if err != nil {
		return nil, fmt.Errorf("writing %s: %w", path, err)
	}
	defer os.Remove(f.Name())
	_, err = f.Write(b)
	if err = errors.Join(err, f.Sync(), f.Close()); err == nil {
		err = os.Rename(f.Name(), path)
	}
	if err != nil {
		return nil, fmt.Errorf("writing %s: %w", path, err)
	}
	return b, nil
}

func keepKey(path string, make func() (crypto.Signer, error)) (crypto.Signer, error) {
	text, err := keep(path, func() ([]byte, error) {
		key, err := make()
		if err != nil {
			return nil, err
		}
		der, err := x509.MarshalPKCS8PrivateKey(key)
		if err != nil {
			return nil, err
		}
		return pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der}), nil
	})
	if err != nil {
		return nil, err
	}
	block, _ := pem.Decode(text)
	if block == nil {
		return nil, fmt.Errorf("reading %s: not PEM", path)
	}
	key, err := x509.ParsePKCS8PrivateKey(block.Bytes)
	if err != nil {
		return nil, fmt.Errorf("reading %s: %w", path, err)
	}
	signer, ok := key.(crypto.Signer)
	if !ok {
		return nil, fmt.Errorf("reading %s: not a signing key", path)
	}
	return signer, nil
}

// Issuer is how the runtime's configuration names this provider.
func (p *Provider) Issuer() wire.Issuer {
	return wire.Issuer{Iss: p.name, Signer: []byte(p.keyset.Public().(ed25519.PublicKey))}
}

// Access mints an access token.
func (p *Provider) Access(u User, life time.Duration) (string, error) {
	return p.mint(u, life, map[string]any{"aud": []string{wire.Audience}, wire.ClaimUsername: u.Username})
}

// ID mints an id token for the client that reads it.
func (p *Provider) ID(u User, life time.Duration) (string, error) {
	return p.mint(u, life, map[string]any{"aud": []string{"cape-cli"}, "nickname": u.Username})
}

func (p *Provider) mint(u User, life time.Duration, claims map[string]any) (string, error) {
	id := make([]byte, 12)
	if _, err := rand.Read(id); err != nil {
		return "", err
	}
	now := p.now()
	claims["iss"], claims["sub"], claims["jti"] = p.name, u.Subject, hex.EncodeToString(id)
	claims["iat"], claims["exp"] = now.Unix(), now.Add(life).Unix()
	s, err := jose.NewSigner(jose.SigningKey{Algorithm: jose.RS256, Key: jose.JSONWebKey{Key: p.token, KeyID: p.kid}}, (&jose.SignerOptions{}).WithType("JWT"))
	if err != nil {
		return "", err
	}
	return jwt.Signed(s).Claims(claims).Serialize()
}

// Verify checks an access token as plain API routes need it. Errors: ErrToken,
// ErrExpired; neither says anything of the token's content.
func (p *Provider) Verify(token string) (*Claims, error) {
	if len(token) > wire.MaxToken {
		return nil, ErrToken
	}
	t, err := jwt.ParseSigned(token, []jose.SignatureAlgorithm{jose.RS256})
	if err != nil {
		return nil, ErrToken
	}
	var c jwt.Claims
	more := map[string]any{}
	if err := t.Claims(&p.token.PublicKey, &c, &more); err != nil {
		return nil, ErrToken
	}
	err = c.ValidateWithLeeway(jwt.Expected{Issuer: p.name, AnyAudience: jwt.Audience{wire.Audience}, Time: p.now()}, leeway)
	switch {
	case errors.Is(err, jwt.ErrExpired):
		return nil, ErrExpired
	case err != nil || c.Expiry == nil || c.Subject == "":
		return nil, ErrToken
	}
	username, _ := more[wire.ClaimUsername].(string) // absent in tokens for programs
	return &Claims{Owner: wire.Subject{Iss: c.Issuer, Sub: c.Subject}, Username: username, ID: c.ID}, nil
}

func (p *Provider) keys() []jose.JSONWebKey {
	return []jose.JSONWebKey{{Key: &p.token.PublicKey, KeyID: p.kid, Algorithm: string(jose.RS256), Use: "sig"}}
}

// KeySet returns the public key set as JSON (RFC 7517).
func (p *Provider) KeySet() ([]byte, error) {
	return json.Marshal(jose.JSONWebKeySet{Keys: p.keys()})
}

// SignedKeySet returns the key set for the runtime: a compact JWS of type
// "cape-jwks" over {"iss", "exp", "keys"}, valid for KeySetLife.
func (p *Provider) SignedKeySet() (string, error) {
	payload, err := json.Marshal(map[string]any{"iss": p.name, "exp": p.now().Add(KeySetLife).Unix(), "keys": p.keys()})
	if err != nil {
		return "", err
	}
	s, err := jose.NewSigner(jose.SigningKey{Algorithm: jose.EdDSA, Key: p.keyset}, (&jose.SignerOptions{}).WithType(typeKeySet))
	if err != nil {
		return "", err
	}
	signed, err := s.Sign(payload)
	if err != nil {
		return "", err
	}
	return signed.CompactSerialize()
}
