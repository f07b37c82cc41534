package session

import (
	"context"
	"net/http"

	"github.com/cape-functions/cape/core/wire"
	"github.com/cape-functions/cape/enclave/internal/token"
	"github.com/cape-functions/cape/enclave/internal/vault"
)

// authenticate verifies a token, whatever way it came.
func (s *Server) authenticate(ctx context.Context, raw string) (*token.Claims, *fault) {
	claims, err := s.cfg.Tokens.Verify(ctx, raw)
	if err != nil {
		return nil, tokenFault(err)
	}
	return claims, nil
}

// manager authenticates for what only a user's own login may do.
func (s *Server) manager(ctx context.Context, raw string) (*token.Claims, *fault) {
	claims, f := s.authenticate(ctx, raw)
	if f == nil && !claims.MayManage() {
		f = fatal(wire.CodeUnauthorized, "this token may only run functions", "use the token of a login")
	}
	if f != nil {
		return nil, f
	}
	return claims, nil
}

// find asks for the function of a run route and decides by its manifest whether the holder
// of claims may run it. What one may not see does not exist. The record must be loaded or
// closed; that its manifest is authentic is known when it was loaded.
func (s *Server) find(ctx context.Context, claims *token.Claims, r *http.Request) (*vault.Record, *fault) {
	var rec *vault.Record
	var err error
	if id := r.PathValue("id"); id != "" {
		rec, err = s.cfg.Vault.ByID(ctx, id)
	} else {
		rec, err = s.cfg.Vault.ByName(ctx, r.PathValue("user"), r.PathValue("name"))
	}
	if err != nil {
		return nil, faultOf(err)
	}
	if !mayRun(claims, rec) {
		rec.Close()
		return nil, notFound()
	}
	return rec, nil
}

func mayRun(c *token.Claims, r *vault.Record) bool {
	if !c.MayRun(r.ID) {
		return false
	}
	switch r.Manifest.Access {
	case wire.AccessPublic:
		return true
	case wire.AccessToken:
		return r.OwnedBy(c.Subject)
	}
	return false // AccessGrant needs an authority that a token is not
}
