package session

import (
	"bytes"
	"context"
	"crypto/rand"
	"crypto/sha256"
	"errors"
	"fmt"

	"github.com/coder/websocket"

	"github.com/cape-functions/cape/core/envelope"
	"github.com/cape-functions/cape/core/wire"
	"github.com/cape-functions/cape/enclave/internal/token"
	"github.com/cape-functions/cape/enclave/internal/vault"
)

// deployV1 serves /v1/deploy.
func (s *Server) deployV1(ctx context.Context, c *channel, claims *token.Claims) error {
	nonce, err := c.nonceV1()
	if err != nil {
		return err
	}
	if _, err := c.introduce(nonce, wire.UserDataV1{KeyChecksum: c.v.policySum()}); err != nil {
		return err
	}
	var head wire.DeployV1
	if err := c.receive(&head); err != nil {
		return err
	}
	if !wire.ValidFunctionName(head.Name) {
		return fatal(wire.CodeInvalidFunction, "the function's name is empty or not usable",
			fmt.Sprintf("use at most %d letters, digits, '.', '_' and '-', beginning with a letter or digit: --name", wire.MaxFunctionName))
	}
	sealed, err := c.next(websocket.MessageBinary, int64(s.cfg.Limits.Zip)+wire.EnvelopeOverhead)
	if err != nil {
		return err
	}
	defer sealed.release()
	c.watch.begin()
	defer c.watch.end()
	id, err := s.storeV1(ctx, c.v.tenant, claims, head, sealed.bytes())
	if err != nil {
		return err
	}
	return c.send(wire.DeployedV1{ID: id})
}

// storeV1 opens a deploy's body where it lies, judges it, and stores it.
func (s *Server) storeV1(ctx context.Context, t *tenant, claims *token.Claims, head wire.DeployV1, sealed []byte) (string, error) {
	key, err := s.cfg.Vault.Key(ctx, vault.LegacyUser(claims.Subject))
	if errors.Is(err, vault.ErrNotFound) {
		return "", sealedToAnother()
	}
	if err != nil {
		return "", err
	}
	zip, err := envelope.OpenOldRawInPlace(key.Private, sealed)
	if err != nil {
		return "", sealedToAnother()
	}
	if uint64(len(zip)) > s.cfg.Limits.Zip {
		return "", fatal(wire.CodeTooLarge, fmt.Sprintf("the function is larger than %d bytes", s.cfg.Limits.Zip), "make the deploy folder smaller")
	}
	if err := s.check(ctx, t, bytes.NewReader(zip), int64(len(zip))); err != nil {
		return "", err
	}
	manifest, err := s.manifestV1(claims.Subject, head, sha256.Sum256(zip)).Encode()
	if err != nil {
		return "", fmt.Errorf("writing manifest: %w", err)
	}
	return s.cfg.Vault.Store(ctx, vault.Deploy{Manifest: manifest, Username: claims.Username}, bytes.NewReader(zip), int64(len(zip)))
}

func sealedToAnother() *fault {
	return fatal(wire.CodeInvalidRequest, "the function is not sealed to your account's Cape Key",
		"fetch the key again, after removing the cached one: cape key")
}

// manifestV1 is what a v1 client would have signed if it had an account. Decrypt is "any":
// no authority of the owner's exists that could admit a session, so "owner" would open
// Cape-encrypted inputs for nobody at all; the original opened them for every admitted caller.
func (s *Server) manifestV1(owner wire.Subject, head wire.DeployV1, checksum [32]byte) *wire.Manifest {
	salt := make([]byte, 16)
	rand.Read(salt)
	access := wire.AccessToken
	if head.Public {
		access = wire.AccessPublic
	}
	return &wire.Manifest{V: 2, Owner: owner, Name: head.Name, Access: access, Decrypt: wire.DecryptAny,
		Seq: uint64(s.cfg.Now().UnixMilli()), Checksum: checksum[:], Salt: salt}
}

// keyV1 serves /v1/key: the document is the answer.
func (s *Server) keyV1(ctx context.Context, c *channel, claims *token.Claims) error {
	nonce, err := c.nonceV1()
	if err != nil {
		return err
	}
	c.watch.begin()
	key, err := s.cfg.Vault.EnsureKey(ctx, vault.LegacyUser(claims.Subject), claims.Subject, claims.Username)
	c.watch.end()
	if err != nil {
		return err
	}
	_, err = c.introduce(nonce, wire.UserDataV1{Key: key.SPKI})
	return err
}
