package vault

import (
	"bytes"
	"context"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/x509"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"sync"

	"golang.org/x/sync/singleflight"

	"github.com/cape-functions/cape/core/wire"
)

// Holder is who has a Cape Key: an account, or a user of the original's clients, who has none.
// Values compare with ==.
type Holder struct {
	Acct [32]byte     // SHA-256 of the account key's SPKI; zero: a legacy key
	User wire.Subject // of a legacy key alone
}

// Account is the account acct, LegacyUser a user without one.
func Account(acct [32]byte) Holder { return Holder{Acct: acct} }

// LegacyUser: see Account.
func LegacyUser(s wire.Subject) Holder { return Holder{User: s} }

// Legacy tells whether h is a user without an account.
func (h Holder) Legacy() bool { return h.Acct == [32]byte{} }

// CapeKey is an unwrapped Cape Key pair. It is shared: nobody may change or wipe it.
type CapeKey struct {
	Holder  Holder
	Private *rsa.PrivateKey
	// SPKI is the public half, derived from the private one, and Hash its SHA-256.
	SPKI []byte
	Hash [32]byte
}

// maxCapeKeys bounds the pairs kept in memory, some 3 KiB each.
const maxCapeKeys = 4096

// keyCache remembers pairs by their holder, and forgets the oldest.
type keyCache struct {
	flight singleflight.Group
	mu     sync.Mutex
	keys   map[Holder]*CapeKey
	order  []Holder
}

func newKeyCache() *keyCache { return &keyCache{keys: make(map[Holder]*CapeKey)} }

func (c *keyCache) get(h Holder) *CapeKey {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.keys[h]
}

func (c *keyCache) put(k *CapeKey) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if _, ok := c.keys[k.Holder]; ok {
		return
	}
	if len(c.order) == maxCapeKeys {
		delete(c.keys, c.order[0])
		c.order = c.order[1:]
	}
	c.keys[k.Holder] = k
	c.order = append(c.order, k.Holder)
}

// Key returns the Cape Key of h. Errors: ErrNotFound when there is none, and the others of
// errors.go.
func (v *Vault) Key(ctx context.Context, h Holder) (*CapeKey, error) {
	return v.shared(ctx, h, "get", func(ctx context.Context) (*CapeKey, error) {
		return v.storedKey(ctx, h)
	})
}

// EnsureKey is Key, and makes the pair if there is none. Callers have verified h's authority,
// or for a legacy key a token of h's. User and username are for the host's routing alone.
func (v *Vault) EnsureKey(ctx context.Context, h Holder, user wire.Subject, username string) (*CapeKey, error) {
	return v.shared(ctx, h, "ensure", func(ctx context.Context) (*CapeKey, error) {
		k, err := v.storedKey(ctx, h)
		if !errors.Is(err, ErrNotFound) {
			return k, err
		}
		return v.createKey(ctx, h, user, username)
	})
}

// KeyOfUser returns the Cape Key of whom the host says has this name: the legacy key, or that
// of the user's account where there is one.
func (v *Vault) KeyOfUser(ctx context.Context, user string, legacy bool) (*CapeKey, error) {
	if !wire.ValidUsername(user) {
		return nil, ErrNotFound
	}
	path := "/v1/users/" + url.PathEscape(user) + "/key"
	if !legacy {
		path += "?account=1"
	}
	_, data, err := v.link.call(ctx, http.MethodGet, path, nil, wire.MaxRecord)
	if err != nil {
		return nil, err
	}
	stored, err := parseKey(data)
	if err != nil {
		return nil, err
	}
	h := LegacyUser(stored.Owner)
	if stored.Acct != nil && len(stored.Acct) == sha256.Size && !legacy {
		h = Account([32]byte(stored.Acct))
	}
	return v.shared(ctx, h, "user", func(ctx context.Context) (*CapeKey, error) {
		return v.openKey(ctx, stored, h)
	})
}

// shared does find once for all who ask for the same at the same time.
func (v *Vault) shared(ctx context.Context, h Holder, how string, find func(context.Context) (*CapeKey, error)) (*CapeKey, error) {
	if k := v.keys.get(h); k != nil {
		return k, nil
	}
	done := v.keys.flight.DoChan(how+" "+h.name(), func() (any, error) {
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), 2*wire.LinkCall)
		defer cancel()
		k, err := find(ctx)
		if err == nil {
			v.keys.put(k)
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

func (v *Vault) storedKey(ctx context.Context, h Holder) (*CapeKey, error) {
	query := url.Values{"iss": {h.User.Iss}, "sub": {h.User.Sub}}
	if !h.Legacy() {
		query = url.Values{"acct": {hex.EncodeToString(h.Acct[:])}}
	}
	_, data, err := v.link.call(ctx, http.MethodGet, "/v1/keys?"+query.Encode(), nil, wire.MaxRecord)
	if err != nil {
		return nil, err
	}
	stored, err := parseKey(data)
	if err != nil {
		return nil, err
	}
	return v.openKey(ctx, stored, h)
}

// createKey makes a pair and offers it to the host, which keeps the first it was offered:
// two first sessions at once end with one key.
func (v *Vault) createKey(ctx context.Context, h Holder, user wire.Subject, username string) (*CapeKey, error) {
	private, wrapped, err := v.cfg.Keys.NewKeyPair(ctx, h.context())
	if err != nil {
		return nil, keyError(err)
	}
	record := wire.StoredKey{Owner: user, Username: username, Wrapped: wrapped, KEK: v.cfg.KEK}
	if !h.Legacy() {
		record.Acct = h.Acct[:]
	}
	data, err := wire.Marshal(record)
	if err != nil {
		return nil, fmt.Errorf("writing key record: %w", err)
	}
	status, answer, err := v.link.call(ctx, http.MethodPut, "/v1/keys", data, wire.MaxRecord)
	if err != nil {
		return nil, fmt.Errorf("storing key: %w", err)
	}
	if status == http.StatusCreated {
		return capeKey(h, private)
	}
	first, err := parseKey(answer)
	if err != nil {
		return nil, err
	}
	return v.openKey(ctx, first, h)
}

func parseKey(data []byte) (*wire.StoredKey, error) {
	var k wire.StoredKey
	if err := wire.Unmarshal(data, wire.MaxRecord, &k); err != nil {
		return nil, fmt.Errorf("%w: %w", ErrHead, err)
	}
	return &k, nil
}

// openKey unwraps a pair in the context of h, whatever else the record says.
func (v *Vault) openKey(ctx context.Context, k *wire.StoredKey, h Holder) (*CapeKey, error) {
	switch {
	case h.Legacy() && k.Acct != nil, !h.Legacy() && !bytes.Equal(k.Acct, h.Acct[:]):
		return nil, ErrWrongAccount
	case h.Legacy() && (k.Owner != h.User || h.User.Iss == "" || h.User.Sub == ""):
		return nil, ErrWrongOwner
	case k.KEK != v.cfg.KEK:
		return nil, ErrKEK
	case len(k.Wrapped) == 0 || len(k.Wrapped) > wire.MaxWrapped:
		return nil, ErrHead
	}
	private, err := v.cfg.Keys.OpenKeyPair(ctx, k.Wrapped, h.context())
	if err != nil {
		return nil, keyError(err)
	}
	return capeKey(h, private)
}

func capeKey(h Holder, private *rsa.PrivateKey) (*CapeKey, error) {
	spki, err := x509.MarshalPKIXPublicKey(private.Public())
	if err != nil {
		return nil, fmt.Errorf("encoding Cape Key: %w", err)
	}
	return &CapeKey{Holder: h, Private: private, SPKI: spki, Hash: sha256.Sum256(spki)}, nil
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
