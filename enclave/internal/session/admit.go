package session

import (
	"bytes"
	"context"
	"net/http"

	"github.com/cape-functions/cape/core/account"
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
		return nil, runOnly()
	}
	return claims, f
}

func runOnly() *fault {
	return fatal(wire.CodeUnauthorized, "this token may only run functions", "use the token of a login")
}

// caller is who opened a session. A token is the issuer's word, and the host may run the
// issuer; an account's authority is its owner's own.
type caller struct {
	claims *token.Claims // nil: no token
	acct   *account.ID   // nil: no authority; v1 has none
	tenant *tenant       // whom the session counts for
}

// owns tells whether c is the owner of a function: by the authority of its account, or by
// token where it has none.
func (c caller) owns(m *wire.Manifest) bool {
	if m.Acct != nil {
		return c.acct != nil && bytes.Equal(m.Acct, c.acct[:])
	}
	return c.named(m)
}

// named tells whether the issuer names c as the owner.
func (c caller) named(m *wire.Manifest) bool { return c.claims != nil && c.claims.Subject == m.Owner }

func (c caller) mayRun(r *vault.Record) bool {
	if c.claims != nil && !c.claims.MayRun(r.ID) {
		return false
	}
	switch r.Manifest.Access {
	case wire.AccessPublic:
		return c.claims != nil
	case wire.AccessToken:
		return c.named(r.Manifest) // an authority proves whose a function is, not who pays for it
	case wire.AccessGrant:
		return c.owns(r.Manifest)
	}
	return false
}

// find asks for the function of a run route and decides by its manifest whether c may run it.
// What one may not see does not exist. The record must be loaded or closed; that its manifest
// is authentic is known when it was loaded.
func (s *Server) find(ctx context.Context, c caller, r *http.Request) (*vault.Record, *fault) {
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
	if !c.mayRun(rec) {
		rec.Close()
		return nil, notFound()
	}
	return rec, nil
}

// expected compares a function with what its caller demands of it.
func expected(e wire.Expect, m *wire.Manifest) *fault {
	what := ""
	switch {
	case e.Acct != nil && !bytes.Equal(e.Acct, m.Acct):
		what = "the function is not of the account that you expect"
	case e.Fn != nil && !bytes.Equal(e.Fn, m.Checksum):
		what = "the function has another checksum than you expect"
	case e.Seq != nil && m.Seq < *e.Seq:
		what = "the function is older than one that you know"
	default:
		return nil
	}
	return fatal(wire.CodeInvalidFunction, what, "ask its owner; the server may be serving something else in its place")
}
