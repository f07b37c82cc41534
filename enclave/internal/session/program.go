package session

import (
	"context"
	"errors"
	"fmt"
	"io"
	"path/filepath"

	"github.com/cape-functions/cape/core/wire"
	"github.com/cape-functions/cape/enclave/internal/handler"
	"github.com/cape-functions/cape/enclave/internal/intake"
	"github.com/cape-functions/cape/enclave/internal/vault"
)

// program is a function that one session may invoke. Its jail starts with the first input
// and lives until close.
type program struct {
	s        *Server
	fn       *vault.Function
	checksum [32]byte
	opener   opener
	owner    bool // by the authority of the function's account: sees tracebacks and what it prints
	stdout   io.Writer
	stderr   io.Writer
	proc     Process
}

// program returns a stored function for a caller. Who owns it by token alone, as in all of
// version 1, where results pass the host in clear, sees results and nothing more.
func (s *Server) program(fn *vault.Function, c caller) *program {
	m := fn.Manifest
	owner := c.owns(m)
	return &program{s: s, fn: fn, checksum: [32]byte(m.Checksum), owner: owner && m.Acct != nil, opener: opener{s: s, tenant: c.tenant, holder: vault.HolderOf(m),
		legacy: m.Owner, name: m.Name, seq: m.Seq, checksum: [32]byte(m.Checksum), byOwner: owner, named: m.Decrypt == wire.DecryptAny}}
}

// trial returns a function that is stored nowhere, for the caller who brought it.
func (s *Server) trial(fn *vault.Function, checksum [32]byte, c caller) *program {
	o := opener{s: s, tenant: c.tenant, holder: vault.LegacyUser(c.claims.Subject), legacy: c.claims.Subject, checksum: checksum, byOwner: true}
	if c.acct != nil {
		o.holder = vault.Account(*c.acct)
	}
	return &program{s: s, fn: fn, checksum: checksum, owner: c.acct != nil, opener: o}
}

// invoke opens what is Cape-encrypted and calls the handler once the input was read to its
// end. Errors are faults, or fit for faultOf.
func (p *program) invoke(ctx context.Context, input io.Reader, output io.Writer) error {
	if p.proc == nil {
		if err := p.start(ctx); err != nil {
			return err
		}
	}
	plain, release, err := p.opener.open(ctx, input)
	if err != nil {
		return err
	}
	defer release()
	err = p.proc.Invoke(ctx, plain, output)
	var exception *handler.FunctionError
	switch {
	case errors.As(err, &exception):
		return functionFault(exception, p.owner)
	case errors.Is(err, errLimit):
		return fatal(wire.CodeTooLarge, fmt.Sprintf("the result is larger than %d bytes", p.s.cfg.Limits.Output), "return less in one call")
	}
	return err
}

func (p *program) start(ctx context.Context) error {
	o := handler.Options{Tree: p.fn.Dir, Work: p.fn.Work, Limits: p.s.cfg.Limits, RPC: p.opener.rpc, Reserve: p.opener.tenant.reserve, Stdout: p.stdout, Stderr: p.stderr}
	if p.fn.Manifest != nil { // one that is stored may be called again
		o.Hold, o.Owner = p.fn.Hold, p.opener.legacy
	} else if p.stderr != nil {
		limits, err := intake.ReadLimits(filepath.Join(p.fn.Dir, p.fn.Work), p.s.cfg.Limits)
		if err != nil {
			return err
		}
		fmt.Fprintln(p.stderr, "limits: "+intake.Describe(limits)) // an owner who is not there need not know
	}
	proc, err := p.s.cfg.Functions.Start(ctx, o)
	if err != nil {
		return fmt.Errorf("starting function: %w", err)
	}
	p.proc = proc
	return nil
}

// close ends the jail and lets go of the function.
func (p *program) close() {
	if p.proc != nil {
		_ = p.proc.Close() // its processes are gone; whatever else failed is the sandbox's
	}
	p.fn.Release()
}
