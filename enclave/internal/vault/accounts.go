package vault

import (
	"bytes"
	"context"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/x509"
	"encoding/binary"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"sync"

	"golang.org/x/sync/singleflight"

	"github.com/cape-functions/cape/core/wire"
)

// CapeKey is an unwrapped Cape Key pair. It is shared: nobody may change or wipe it.
type CapeKey struct {
	Private *rsa.PrivateKey
	// SPKI is the public half, derived from the private one, and Hash its SHA-256.
	SPKI []byte
	Hash [32]byte
}

// maxCapeKeys bounds the pairs kept in memory, some 3 KiB each.
const maxCapeKeys = 4096

// keyCache remembers pairs by their owner, and forgets the oldest.
type keyCache struct {
	flight singleflight.Group
	mu     sync.Mutex
	keys   map[wire.Subject]*CapeKey
	order  []wire.Subject
}

func newKeyCache() *keyCache { return &keyCache{keys: make(map[wire.Subject]*CapeKey)} }

func (c *keyCache) get(s wire.Subject) *CapeKey {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.keys[s]
}

func (c *keyCache) put(s wire.Subject, k *CapeKey) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if _, ok := c.keys[s]; ok {
		return
	}
	if len(c.order) == maxCapeKeys {
		delete(c.keys, c.order[0])
		c.order = c.order[1:]
	}
	c.keys[s] = k
	c.order = append(c.order, s)
}

// LegacyKey returns the legacy Cape Key of a user. Errors: ErrNotFound when there is none,
// and the others of errors.go.
func (v *Vault) LegacyKey(ctx context.Context, s wire.Subject) (*CapeKey, error) {
	return v.legacyKey(ctx, s, "get", func(ctx context.Context) (*CapeKey, error) {
		return v.storedKey(ctx, s)
	})
}

// EnsureLegacyKey is LegacyKey, and makes the pair if there is none. Callers have verified a
// token of s. Username is for the host's routing alone.
func (v *Vault) EnsureLegacyKey(ctx context.Context, s wire.Subject, username string) (*CapeKey, error) {
	return v.legacyKey(ctx, s, "ensure", func(ctx context.Context) (*CapeKey, error) {
		k, err := v.storedKey(ctx, s)
		if !errors.Is(err, ErrNotFound) {
			return k, err
		}
		return v.createKey(ctx, s, username)
	})
}

// KeyOfUser returns the legacy Cape Key of whom the host says has this name: v1 binds no
// name to a key.
func (v *Vault) KeyOfUser(ctx context.Context, user string) (*CapeKey, error) {
	if !wire.ValidUsername(user) {
		return nil, ErrNotFound
	}
	_, data, err := v.link.call(ctx, http.MethodGet, "/v1/users/"+url.PathEscape(user)+"/key", nil, wire.MaxRecord)
	if err != nil {
		return nil, err
	}
	stored, err := parseKey(data)
	if err != nil {
		return nil, err
	}
	return v.legacyKey(ctx, stored.Owner, "user", func(ctx context.Context) (*CapeKey, error) {
		return v.openKey(ctx, stored, stored.Owner)
	})
}

// legacyKey does find once for all who ask for the same at the same time.
func (v *Vault) legacyKey(ctx context.Context, s wire.Subject, how string, find func(context.Context) (*CapeKey, error)) (*CapeKey, error) {
	if k := v.keys.get(s); k != nil {
		return k, nil
	}
	done := v.keys.flight.DoChan(how+" "+legacyAccount(s), func() (any, error) {
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), 2*wire.LinkCall)
		defer cancel()
		k, err := find(ctx)
		if err == nil {
			v.keys.put(s, k)
		}
		return k, err
	})
	select {
	case r := <-done:
		k, _ := r.Val.(*CapeKey)
		return k, r.Err
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}

func (v *Vault) storedKey(ctx context.Context, s wire.Subject) (*CapeKey, error) {
	query := url.Values{"iss": {s.Iss}, "sub": {s.Sub}}.Encode()
	_, data, err := v.link.call(ctx, http.MethodGet, "/v1/keys?"+query, nil, wire.MaxRecord)
	if err != nil {
		return nil, err
	}
	stored, err := parseKey(data)
	if err != nil {
		return nil, err
	}
	return v.openKey(ctx, stored, s)
}

// createKey makes a pair and offers it to the host, which keeps the first it was offered:
// two first sessions at once end with one key.
func (v *Vault) createKey(ctx context.Context, s wire.Subject, username string) (*CapeKey, error) {
	private, wrapped, err := v.cfg.Keys.NewKeyPair(ctx, legacyContext(s))
	if err != nil {
		return nil, keyError(err)
	}
	data, err := wire.Marshal(wire.StoredKey{Owner: s, Username: username, Wrapped: wrapped, KEK: v.cfg.KEK})
	if err != nil {
		return nil, fmt.Errorf("writing key record: %w", err)
	}
	status, answer, err := v.link.call(ctx, http.MethodPut, "/v1/keys", data, wire.MaxRecord)
	if err != nil {
		return nil, fmt.Errorf("storing key: %w", err)
	}
	if status == http.StatusCreated {
		return capeKey(private)
	}
	first, err := parseKey(answer)
	if err != nil {
		return nil, err
	}
	return v.openKey(ctx, first, s)
}

func parseKey(data []byte) (*wire.StoredKey, error) {
	var k wire.StoredKey
	if err := wire.Unmarshal(data, wire.MaxRecord, &k); err != nil {
		return nil, fmt.Errorf("%w: %w", ErrHead, err)
	}
	return &k, nil
}

// openKey unwraps a pair in the context of owner, whatever else the record says.
func (v *Vault) openKey(ctx context.Context, k *wire.StoredKey, owner wire.Subject) (*CapeKey, error) {
	switch {
	case k.Owner != owner || owner.Iss == "" || owner.Sub == "":
		return nil, ErrWrongOwner
	case k.Acct != nil:
		return nil, ErrSigned
	case k.KEK != v.cfg.KEK:
		return nil, ErrKEK
	case len(k.Wrapped) == 0 || len(k.Wrapped) > wire.MaxWrapped:
		return nil, ErrHead
	}
	private, err := v.cfg.Keys.OpenKeyPair(ctx, k.Wrapped, legacyContext(owner))
	if err != nil {
		return nil, keyError(err)
	}
	return capeKey(private)
}

func capeKey(private *rsa.PrivateKey) (*CapeKey, error) {
	spki, err := x509.MarshalPKIXPublicKey(private.Public())
	if err != nil {
		return nil, fmt.Errorf("encoding Cape Key: %w", err)
	}
	return &CapeKey{Private: private, SPKI: spki, Hash: sha256.Sum256(spki)}, nil
}

// SignedKeys implements token.SignedKeys.
func (v *Vault) SignedKeys(ctx context.Context, iss string) ([]byte, error) {
	_, data, err := v.link.call(ctx, http.MethodGet, "/v1/jwks?"+url.Values{"iss": {iss}}.Encode(), nil, wire.MaxJWKS)
	return data, err
}

// headOf returns u32be(len) || CBOR.
func headOf(v any) (*bytes.Reader, error) {
	cbor, err := wire.Marshal(v)
	if err != nil {
		return nil, fmt.Errorf("writing record: %w", err)
	}
	if len(cbor) > wire.MaxRecord {
		return nil, ErrHead
	}
	return bytes.NewReader(append(binary.BigEndian.AppendUint32(nil, uint32(len(cbor))), cbor...)), nil
}
