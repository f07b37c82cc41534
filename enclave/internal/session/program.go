package session

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"

	"github.com/cape-functions/cape/core/wire"
	"github.com/cape-functions/cape/enclave/internal/handler"
	"github.com/cape-functions/cape/enclave/internal/vault"
)

// program is a function that one session may invoke. Its jail starts with the first input
// and lives until close.
type program struct {
	s        *Server
	fn       *vault.Function
	checksum [32]byte
	opener   opener
	owner    bool // the caller is the function's owner: sees tracebacks
	proc     Process
}

// invoke opens what is Cape-encrypted, calls the handler, and returns the SHA-256 of the
// input as the caller sent it: that of an opened envelope would let whoever stole one guess
// at what is in it. It overwrites input. Errors are faults, or fit for faultOf.
func (p *program) invoke(ctx context.Context, input []byte, output io.Writer) ([32]byte, error) {
	sum := sha256.Sum256(input)
	plain, err := p.opener.open(ctx, input)
	if err != nil {
		return [32]byte{}, err
	}
	if p.proc == nil {
		if err := p.start(ctx); err != nil {
			return [32]byte{}, err
		}
	}
	err = p.proc.Invoke(ctx, plain, output)
	var exception *handler.FunctionError
	switch {
	case err == nil:
		return sum, nil
	case errors.As(err, &exception):
		return [32]byte{}, functionFault(exception, p.owner)
	case errors.Is(err, errLimit):
		return [32]byte{}, fatal(wire.CodeTooLarge, fmt.Sprintf("the result is larger than %d bytes", p.s.cfg.Limits.Output), "return less in one call")
	}
	return [32]byte{}, err
}

func (p *program) start(ctx context.Context) error {
	proc, err := p.s.cfg.Functions.Start(ctx, handler.Options{
		Tree: p.fn.Dir, Work: p.fn.Work, Limits: p.s.cfg.Limits, RPC: p.opener.rpc,
	})
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
