package token

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rsa"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"sync"
	"time"

	"github.com/go-jose/go-jose/v4"

	"github.com/cape-functions/cape/core/wire"
)

const (
	maxKeys    = 64
	minRSABits = 2048
	maxRSABits = 8192
	// typeSignedKeys keeps a signed key set apart from everything else that could be signed.
	typeSignedKeys = "cape-jwks"
)

var errKeySet = errors.New("key set is not usable")

// suits tells whether a key may verify a signature of this algorithm. Private keys never do.
func suits(k jose.JSONWebKey, alg jose.SignatureAlgorithm) bool {
	if k.Algorithm != "" && k.Algorithm != string(alg) {
		return false
	}
	switch key := k.Key.(type) {
	case *rsa.PublicKey:
		return (alg == jose.RS256 || alg == jose.PS256) && key.N.BitLen() >= minRSABits && key.N.BitLen() <= maxRSABits
	case *ecdsa.PublicKey:
		return alg == jose.ES256 && key.Curve == elliptic.P256()
	case ed25519.PublicKey:
		return alg == jose.EdDSA
	}
	return false
}

// parseKeys reads a JWK set (RFC 7517) and leaves out what cannot verify a token: keys of
// other kinds and uses, and private ones, which are no secret any more.
func parseKeys(data []byte) ([]jose.JSONWebKey, error) {
	var set struct {
		Keys []json.RawMessage `json:"keys"`
	}
	if err := json.Unmarshal(data, &set); err != nil {
		return nil, fmt.Errorf("%w: not a JSON object with keys", errKeySet)
	}
	if len(set.Keys) > maxKeys {
		return nil, fmt.Errorf("%w: more than %d keys", errKeySet, maxKeys)
	}
	keys := make([]jose.JSONWebKey, 0, len(set.Keys))
	for _, raw := range set.Keys {
		var k jose.JSONWebKey
		if k.UnmarshalJSON(raw) != nil || !k.Valid() || (k.Use != "" && k.Use != "sig") {
			continue
		}
		keys = append(keys, k)
	}
	return keys, nil
}

func fetcherOf(i wire.Issuer, cfg Config) (func(context.Context) (fetched, error), error) {
	if i.JWKS == nil {
		if len(i.Signer) != ed25519.PublicKeySize || cfg.Signed == nil {
			return nil, fmt.Errorf("reading issuers: one has neither a usable key set URL nor a signer")
		}
		s := &signedSet{issuer: i, source: cfg.Signed, now: cfg.Now}
		return s.fetch, nil
	}
	u, err := url.Parse(*i.JWKS)
	if err != nil || u.Scheme != "https" || u.Host == "" || u.User != nil || cfg.HTTP == nil {
		return nil, fmt.Errorf("reading issuers: a key set URL is not https")
	}
	return func(ctx context.Context) (fetched, error) { return fetchURL(ctx, cfg.HTTP, u.String()) }, nil
}

func fetchURL(ctx context.Context, client *http.Client, address string) (fetched, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, address, nil)
	if err != nil {
		return fetched{}, fmt.Errorf("fetching key set: %w", err)
	}
	resp, err := client.Do(req)
	if err != nil {
		return fetched{}, fmt.Errorf("fetching key set: %w", err)
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		return fetched{}, fmt.Errorf("%w: status %d", errKeySet, resp.StatusCode)
	}
	data, err := io.ReadAll(io.LimitReader(resp.Body, wire.MaxJWKS+1))
	if err != nil {
		return fetched{}, fmt.Errorf("fetching key set: %w", err)
	}
	if len(data) > wire.MaxJWKS {
		return fetched{}, fmt.Errorf("%w: more than %d bytes", errKeySet, wire.MaxJWKS)
	}
	keys, err := parseKeys(data)
	return fetched{keys: keys}, err
}

// signedSet is a key set that the host delivers under the signature of the issuer's signer.
type signedSet struct {
	issuer wire.Issuer
	source SignedKeys
	now    func() time.Time

	mu    sync.Mutex
	floor int64 // expiry of the newest set seen: the host cannot go back to an older one
}

func (s *signedSet) fetch(ctx context.Context) (fetched, error) {
	data, err := s.source.SignedKeys(ctx, s.issuer.Iss)
	if err != nil {
		return fetched{}, fmt.Errorf("fetching signed key set: %w", err)
	}
	body, err := s.open(data)
	if err != nil {
		return fetched{}, err
	}
	var head struct {
		Iss string `json:"iss"`
		Exp int64  `json:"exp"`
	}
	if err := json.Unmarshal(body, &head); err != nil || head.Iss != s.issuer.Iss {
		return fetched{}, fmt.Errorf("%w: it is another issuer's", errKeySet)
	}
	if !s.now().Before(time.Unix(head.Exp, 0)) {
		return fetched{}, fmt.Errorf("%w: its signature is expired", errKeySet)
	}
	keys, err := parseKeys(body)
	if err != nil {
		return fetched{}, err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if head.Exp < s.floor {
		return fetched{}, fmt.Errorf("%w: it is older than one that was seen", errKeySet)
	}
	s.floor = head.Exp
	return fetched{keys: keys, expiry: time.Unix(head.Exp, 0)}, nil
}

func (s *signedSet) open(data []byte) ([]byte, error) {
	if len(data) > wire.MaxJWKS {
		return nil, fmt.Errorf("%w: more than %d bytes", errKeySet, wire.MaxJWKS)
	}
	jws, err := jose.ParseSignedCompact(string(bytes.TrimSpace(data)), []jose.SignatureAlgorithm{jose.EdDSA})
	if err != nil || len(jws.Signatures) != 1 {
		return nil, fmt.Errorf("%w: not a compact JWS by EdDSA", errKeySet)
	}
	if jws.Signatures[0].Protected.ExtraHeaders[jose.HeaderType] != typeSignedKeys {
		return nil, fmt.Errorf("%w: not a JWS of type %s", errKeySet, typeSignedKeys)
	}
	body, err := jws.Verify(ed25519.PublicKey(s.issuer.Signer))
	if err != nil {
		return nil, fmt.Errorf("%w: its signature does not hold", errKeySet)
	}
	return body, nil
}
