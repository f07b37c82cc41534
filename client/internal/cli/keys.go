package cli

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"path/filepath"
	"time"

	"github.com/cape-functions/cape/client"
	"github.com/cape-functions/cape/client/internal/config"
	"github.com/cape-functions/cape/client/internal/lockfile"
)

// keptKey is a Cape Key as it is kept: the document that vouches for it, never the key
// alone, so that it is judged anew each time. It holds for one server and one account.
type keptKey struct {
	Origin   string    `json:"origin"`
	Account  string    `json:"account"`
	Document []byte    `json:"document"`
	Nonce    []byte    `json:"nonce,omitempty"`
	Added    time.Time `json:"added"`
}

const (
	// keyFresh is how long a kept key is used without asking the server.
	keyFresh   = 24 * time.Hour
	maxKeptKey = 64 << 10
)

func (a *app) keyPath(s *config.Settings, origin, account string) string {
	sum := sha256.Sum256([]byte(origin + "\x00" + account))
	return s.InDir(filepath.Join("keys", hex.EncodeToString(sum[:16])+".json"))
}

// key returns the Cape Key of an account: a kept one that still holds, else by fetch.
func (a *app) key(ctx context.Context, c *connection, account string, fetch func(context.Context) (*client.CapeKey, error)) (*client.CapeKey, error) {
	s, err := a.settings()
	if err != nil {
		return nil, err
	}
	kept, fresh := a.keptKey(ctx, s, c, account)
	if fresh {
		return kept, nil
	}
	key, err := fetch(ctx)
	if errors.Is(err, client.ErrUnreachable) && kept != nil {
		a.note("The server cannot be reached; using the Cape Key that was verified earlier.")
		return kept, nil
	}
	if err != nil {
		return nil, err
	}
	a.keepKey(s, c, account, key)
	return key, nil
}

// keptKey returns the kept key if it still satisfies the policy, and whether it is
// fresh. What cannot be read or does not hold is as good as none: it is fetched again.
func (a *app) keptKey(ctx context.Context, s *config.Settings, c *connection, account string) (*client.CapeKey, bool) {
	data, err := lockfile.Read(a.keyPath(s, c.Origin(), account), maxKeptKey)
	if err != nil || data == nil {
		return nil, false
	}
	var kept keptKey
	if json.Unmarshal(data, &kept) != nil || kept.Origin != c.Origin() || kept.Account != accountSum(account) {
		return nil, false
	}
	key, err := c.StoredKey(ctx, kept.Document, kept.Nonce)
	if err != nil {
		return nil, false
	}
	age := a.Now().Sub(kept.Added)
	return key, age >= 0 && age < keyFresh
}

// keepKey keeps a key; where that fails it is fetched again next time.
func (a *app) keepKey(s *config.Settings, c *connection, account string, key *client.CapeKey) {
	data, err := json.MarshalIndent(keptKey{c.Origin(), accountSum(account), key.Document, key.Nonce, a.Now().UTC()}, "", "  ")
	if err == nil {
		err = lockfile.Write(a.keyPath(s, c.Origin(), account), append(data, '\n'))
	}
	if err != nil && a.flags.verbose {
		a.note("The Cape Key was not kept: %v", err)
	}
}

// accountSum stands for an account in files; a token that is not a JWT is its own
// account, and must not lie in a file.
func accountSum(account string) string {
	sum := sha256.Sum256([]byte("cape account\x00" + account))
	return hex.EncodeToString(sum[:])
}
