package client

import (
	"bytes"
	"context"
	"fmt"

	v2 "github.com/cape-functions/cape/client/internal/v2"
	"github.com/cape-functions/cape/client/trust"
	"github.com/cape-functions/cape/core/attest"
	"github.com/cape-functions/cape/core/attest/nitro"
	"github.com/cape-functions/cape/core/seal"
	"github.com/cape-functions/cape/core/wire"
)

// keyRoute is where Cape Keys are asked for.
var keyRoute = []string{"v1", "key"}

// ownKey returns the Cape Key of the caller's account, made if there is none: that takes a
// session which the account signed.
func (c *Client) ownKey(ctx context.Context) (*CapeKey, error) {
	if c.account == nil {
		return nil, fmt.Errorf("%w: a Cape Key belongs to one", ErrAccount)
	}
	id := c.account.ID()
	of := wire.KeyOf{Acct: id[:]}
	key, err := c.askKey(ctx, of)
	if remote := remoteOf(err); remote == nil || remote.Code != wire.CodeNotFound {
		return key, err
	}
	s, err := c.openSealed(ctx, demand{}, keyRoute...)
	if err != nil {
		return nil, err
	}
	defer s.Close()
	if err := unnamed(s.Accepted(ctx)); err != nil {
		return nil, fmt.Errorf("making the Cape Key: %w", err)
	}
	return c.askKey(ctx, of)
}

// keyOfUser returns the Cape Key of the account that the server has under a username, if
// Trust takes that account for the user's.
func (c *Client) keyOfUser(ctx context.Context, username string) (*CapeKey, error) {
	key, err := c.askKey(ctx, wire.KeyOf{User: username})
	if err != nil {
		return nil, err
	}
	if key.Account == nil {
		return nil, fmt.Errorf("%w: %s has none, only a key that the server's operator could use", ErrAccount, username)
	}
	key.User = username
	if err := c.judge.Recipient(ctx, trust.Holder{Origin: c.origin, User: username, Account: *key.Account}); err != nil {
		return nil, err
	}
	return key, nil
}

// askKey asks for a Cape Key. Nobody need say who asks.
func (c *Client) askKey(ctx context.Context, of wire.KeyOf) (*CapeKey, error) {
	socket, err := c.link.Dial(ctx, wire.SubprotocolV2, keyRoute...)
	if err != nil {
		return nil, err
	}
	attested, answer, err := v2.Key(ctx, socket, routeOf(keyRoute), of, &c.births, c.sealedJudge(nil))
	if err != nil {
		return nil, attestation(err)
	}
	key, err := parseKey(attested.Evidence, attested.SPKI)
	if err != nil {
		return nil, err
	}
	key.Nonce, key.Config = attested.Nonce, answer.Config
	if attested.Acct != nil {
		key.Account = (*[32]byte)(attested.Acct)
	}
	return key, nil
}

// storedSealedKey is StoredKey in v2. What the document commits to is compared with what
// Trust pins; that it belongs together was checked when the key came.
func (c *Client) storedSealedKey(ctx context.Context, kept *CapeKey) (*CapeKey, error) {
	var claim *wire.KeyClaim
	ev, err := c.judge.Enclave(ctx, trust.Contact{
		Origin: c.origin, Document: kept.Document, Nonce: kept.Nonce, Archived: true, At: c.now(), Verifier: c.verifier,
		Claims: func(ev *attest.Evidence) (trust.Claims, error) {
			var err error
			if claim, err = wire.ParseKeyClaim(ev.Document.UserData); err != nil {
				return trust.Claims{}, fmt.Errorf("%w: %w", seal.ErrBinding, err)
			}
			return keptClaims(ev, claim, kept)
		},
	})
	if err != nil {
		return nil, attestation(err)
	}
	if claim == nil {
		return nil, attestation(fmt.Errorf("%w: nobody looked at what it says", seal.ErrBinding))
	}
	key, err := parseKey(ev, kept.DER)
	if err != nil {
		return nil, err
	}
	key.Nonce, key.Config, key.User = kept.Nonce, kept.Config, kept.User
	if claim.Acct == nil {
		return nil, attestation(fmt.Errorf("%w: it is a key of no account", seal.ErrBinding))
	}
	key.Account = (*[32]byte)(claim.Acct)
	if kept.User == "" {
		return key, nil
	}
	if err := c.judge.Recipient(ctx, trust.Holder{Origin: c.origin, User: kept.User, Account: *key.Account}); err != nil {
		return nil, err
	}
	return key, nil
}

func keptClaims(ev *attest.Evidence, claim *wire.KeyClaim, kept *CapeKey) (trust.Claims, error) {
	if !isSum(claim.CK, kept.DER) || !isSum(claim.Config, kept.Config) {
		return trust.Claims{}, fmt.Errorf("%w: it is for another Cape Key or configuration", seal.ErrBinding)
	}
	byUser := claim.User != nil && *claim.User == kept.User
	byAccount := claim.User == nil && kept.User == "" && kept.Account != nil && bytes.Equal(claim.Acct, kept.Account[:])
	if !byUser && !byAccount {
		return trust.Claims{}, fmt.Errorf("%w: it is a Cape Key of somebody else", seal.ErrBinding)
	}
	config, err := wire.ParseConfig(kept.Config)
	if err != nil {
		return trust.Claims{}, fmt.Errorf("%w: %w", seal.ErrTrust, err)
	}
	want, err := wire.ExpectedPCR16(config.Trust)
	if err != nil {
		return trust.Claims{}, err
	}
	if got, ok := ev.Document.PCRs[wire.TrustPCR]; !ok || got != nitro.PCR(want) {
		return trust.Claims{}, fmt.Errorf("%w: PCR16 is not that of the trust in its configuration", seal.ErrTrust)
	}
	encoded, err := wire.Marshal(config.Trust)
	if err != nil {
		return trust.Claims{}, err
	}
	return trust.Claims{KeyPolicy: claim.Policy, KMS: config.KMS, Trust: encoded}, nil
}
