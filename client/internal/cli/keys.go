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
	"github.com/cape-functions/cape/core/wire"
)

// keptKey is a Cape Key as it is kept: with the document that vouches for it, so that it is
// judged anew each time. It holds for one server and one account.
type keptKey struct {
	Origin   string    `json:"origin"`
	Account  string    `json:"account"`
	Document []byte    `json:"document"`
	Nonce    []byte    `json:"nonce,omitempty"`
	Key      []byte    `json:"key,omitempty"`    // v2: SPKI
	Config   []byte    `json:"config,omitempty"` // v2
	Added    time.Time `json:"added"`
}

// owner is whose key is meant.
type owner struct {
	user string    // the name under which it is asked for; empty: the caller's own
	id   *[32]byte // the caller's own account; nil in v1
	name string    // of the file: tells owners apart, and is never sent
}

// own is the caller's own account, others that of a username.
func (c *connection) own() owner {
	if !c.sealed {
		return owner{name: "own\x00" + c.caller.account}
	}
	id := [32]byte(c.key.ID())
	return owner{id: &id, name: "own account\x00" + c.key.ID().String()}
}

func (c *connection) others(user string) owner {
	if !c.sealed {
		return owner{user: user, name: "user\x00" + user}
	}
	return owner{user: user, name: "user's account\x00" + user}
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

// key returns a Cape Key: a kept one that still holds, else a fresh one.
func (a *app) key(ctx context.Context, c *connection, of owner) (*client.CapeKey, error) {
	s, err := a.settings()
	if err != nil {
		return nil, err
	}
	kept, fresh := a.keptKey(ctx, s, c, of)
	if fresh {
		return kept, nil
	}
	var key *client.CapeKey
	if of.user == "" {
		key, err = c.Key(ctx)
	} else {
		key, err = c.UserKey(ctx, of.user)
	}
	if errors.Is(err, client.ErrUnreachable) && kept != nil {
		a.note("The server cannot be reached; using the Cape Key that was verified earlier.")
		return kept, nil
	}
	var remote *client.RemoteError
	if of.user != "" && errors.As(err, &remote) && remote.Code == wire.CodeNotFound {
		none := *remote
		none.Text = "the platform knows no Cape Key of " + of.user // the enclave's text speaks of functions
		return nil, advised{&none, "is the username right? A key is made when its owner first uses cape key."}
	}
	if err != nil {
		return nil, err
	}
	a.keepKey(s, c, of, key)
	return key, nil
}

// keptKey returns the kept key if it still satisfies the policy, and whether it is
// fresh. What cannot be read or does not hold is as good as none: it is fetched again.
func (a *app) keptKey(ctx context.Context, s *config.Settings, c *connection, of owner) (*client.CapeKey, bool) {
	data, err := lockfile.Read(a.keyPath(s, c.Origin(), of.name), maxKeptKey)
	if err != nil || data == nil {
		return nil, false
	}
	var kept keptKey
	if json.Unmarshal(data, &kept) != nil || kept.Origin != c.Origin() || kept.Account != accountSum(of.name) {
		return nil, false
	}
	key, err := c.StoredKey(ctx, &client.CapeKey{Document: kept.Document, Nonce: kept.Nonce, DER: kept.Key, Config: kept.Config,
		User: of.user, Account: of.id})
	if err != nil {
		return nil, false
	}
	age := a.Now().Sub(kept.Added)
	return key, age >= 0 && age < keyFresh
}

// keepKey keeps a key; where that fails it is fetched again next time.
func (a *app) keepKey(s *config.Settings, c *connection, of owner, key *client.CapeKey) {
	kept := keptKey{Origin: c.Origin(), Account: accountSum(of.name), Document: key.Document, Nonce: key.Nonce, Added: a.Now().UTC()}
	if c.sealed {
		kept.Key, kept.Config = key.DER, key.Config
	}
	data, err := json.MarshalIndent(kept, "", "  ")
	if err == nil {
		err = lockfile.Write(a.keyPath(s, c.Origin(), of.name), append(data, '\n'))
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
