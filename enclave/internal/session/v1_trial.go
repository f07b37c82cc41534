package session

import (
	"bytes"
	"context"
	"crypto/sha256"

	"github.com/cape-functions/cape/core/seal"
	"github.com/cape-functions/cape/core/wire"
	"github.com/cape-functions/cape/enclave/internal/token"
	"github.com/cape-functions/cape/enclave/internal/vault"
)

// testV1 serves /v1/test: one function and one input, of which nothing is stored.
func (s *Server) testV1(ctx context.Context, c *channel, claims *token.Claims) error {
	nonce, err := c.nonceV1()
	if err != nil {
		return err
	}
	key, err := c.introduceSigner(nonce, wire.UserDataV1{KeyChecksum: c.v.policySum()})
	if err != nil {
		return err
	}
	defer key.Wipe()
	fn, checksum, err := s.receiveFunction(ctx, c, key, claims.Subject)
	if err != nil {
		return err
	}
	prog := s.trial(fn, checksum, caller{claims: claims, tenant: c.v.tenant})
	defer prog.close()
	in := c.readInput(key, int64(s.cfg.Limits.Input)+wire.SealOverhead)
	if in.err != nil {
		return in.err
	}
	c.watch.begin()
	defer c.watch.end()
	defer in.plain.release()
	return c.invoke(ctx, prog, in.plain.bytes())
}

// receiveFunction reads, opens, judges and unpacks a function.
func (s *Server) receiveFunction(ctx context.Context, c *channel, key *seal.SessionKey, owner wire.Subject) (fn *vault.Function, checksum [32]byte, err error) {
	b, err := c.sealed(key, int64(s.cfg.Limits.Zip)+wire.SealOverhead)
	if err != nil {
		return nil, checksum, err
	}
	defer b.release()
	zip := b.bytes()
	c.watch.begin()
	defer c.watch.end()
	if err := s.check(ctx, c.v.tenant, bytes.NewReader(zip), int64(len(zip))); err != nil {
		return nil, checksum, err
	}
	fn, err = s.cfg.Vault.Temporary(ctx, owner, c.v.tenant.checks, bytes.NewReader(zip), int64(len(zip)))
	return fn, sha256.Sum256(zip), err
}
