package session

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"io"
	"net/http"
	"path/filepath"

	"github.com/cape-functions/cape/core/account"
	"github.com/cape-functions/cape/core/wire"
	"github.com/cape-functions/cape/enclave/internal/intake"
	"github.com/cape-functions/cape/enclave/internal/vault"
)

// accepted is what every session is told when it was admitted.
func (x *exchange) accepted() *wire.Accepted {
	return &wire.Accepted{Python: x.s.cfg.Python, Platform: x.s.cfg.Platform, Limits: x.s.cfg.Limits}
}

// runV2 serves /v1/run.
func (s *Server) runV2(ctx context.Context, x *exchange, r *http.Request) error {
	if x.who.claims == nil && x.who.acct == nil {
		return noToken()
	}
	rec, f := s.find(ctx, x.who, r)
	if f != nil {
		return f
	}
	if f := expected(x.expect, rec.Manifest); f != nil {
		rec.Close()
		return f
	}
	if x.who.tenant == nil {
		if err := x.sit(vault.LegacyUser(rec.Manifest.Owner)); err != nil {
			rec.Close()
			return err
		}
	}
	fn, err := s.cfg.Vault.Load(ctx, rec, x.who.tenant.checks)
	if err != nil {
		return err
	}
	prog := s.program(fn, x.who)
	defer prog.close()
	a := x.accepted()
	if a.Limits, err = intake.ReadLimits(filepath.Join(fn.Dir, fn.Work), a.Limits); err != nil {
		return err
	}
	a.Fn, a.Manifest, a.Sig, a.Key = rec.Manifest.Checksum, rec.Raw, rec.Sig, rec.Key
	if err := x.out.send(a); err != nil {
		return err
	}
	return x.answer(ctx, prog)
}

func noToken() *fault {
	return fatal(wire.CodeUnauthorized, "there is no token", "send one of the platform's identity provider")
}

func noUsername() *fault {
	return fatal(wire.CodeUnauthorized, "the token names no user", "use the token of a login")
}

// owner is what deploy, test and own keys need: a login's token and an account's authority.
func (x *exchange) owner() *fault {
	switch c := x.who.claims; {
	case c == nil:
		return noToken()
	case !c.MayManage():
		return runOnly()
	case x.expect.Fn != nil || x.expect.Acct != nil || x.expect.Seq != nil:
		return fatal(wire.CodeInvalidFunction, "there is no function yet of which anything could be expected", "expect nothing on this route")
	}
	return nil
}

func (x *exchange) authority() *fault {
	if f := x.owner(); f != nil {
		return f
	}
	if x.who.acct == nil {
		return fatal(wire.CodeUnauthorized, "this needs your account's authority", "make an account key: cape account show")
	}
	return nil
}

// answer answers streams in their order until the session ends.
func (x *exchange) answer(ctx context.Context, prog *program) error {
	if prog.owner {
		prog.stdout, prog.stderr = &logs{x.out, wire.StreamStdout}, &logs{x.out, wire.StreamStderr}
	}
	for {
		in, err := x.in.oldest()
		if err == nil {
			err = x.invoke(ctx, prog, in)
		}
		if err == nil {
			continue
		}
		cause := x.in.cause()
		if errors.Is(cause, errCancelled) {
			err = cause
		} else if cause != nil {
			return cause
		}
		if err := x.failed(in, faultOf(err)); err != nil {
			return err
		}
	}
}

// failed tells why a stream has no result. When that ended the process, nothing else of the
// session can have one.
func (x *exchange) failed(in *stream, f *fault) error {
	x.out.answering(0)
	if in != nil {
		if err := x.in.answered(in); err != nil {
			return err
		}
		if err := x.out.send(wire.FailureOf(in.begin.ID, f.code, f.line())); err != nil {
			return err
		}
	}
	if !f.fatal {
		return nil
	}
	for _, id := range x.in.clear() {
		if err := x.out.send(wire.FailureOf(id, wire.CodeUnavailable, "the function's process ended before its turn")); err != nil {
			return err
		}
	}
	return told{f}
}

// invoke calls the handler on one input and sends result and receipt.
func (x *exchange) invoke(ctx context.Context, prog *program, in *stream) error {
	x.out.answering(in.begin.ID)
	sum := sha256.New()
	out := newOutput(x.out, in, int64(x.s.cfg.Limits.Output), x.record)
	defer func() { x.record = out.record }()
	if err := prog.invoke(ctx, io.TeeReader(in, sum), out); err != nil {
		return err
	}
	result := &wire.Result{ID: in.begin.ID, Checksums: wire.Checksums{Input: sum.Sum(nil), Function: prog.checksum[:], Output: out.sum.Sum(nil)}}
	var err error
	if result.Receipt, result.Openings, err = x.notary.Sign(result.ID, result.Checksums, x.s.cfg.Now()); err != nil {
		return err
	}
	return out.finish(result)
}

// receive takes a function in, at most of the size that one may have, and judges it. The
// caller releases it.
func (x *exchange) receive(ctx context.Context) (*stream, *buffer, [32]byte, error) {
	in, err := x.in.oldest()
	if err != nil {
		return nil, nil, [32]byte{}, err
	}
	zip, sum := x.who.tenant.buffer(int64(x.s.cfg.Limits.Zip)), sha256.New()
	err = zip.fill(io.TeeReader(in, sum), func() {})
	if err == nil {
		err = x.s.check(ctx, x.who.tenant, bytes.NewReader(zip.bytes()), int64(len(zip.bytes())))
	}
	if err != nil {
		zip.release()
		return nil, nil, [32]byte{}, err
	}
	return in, zip, [32]byte(sum.Sum(nil)), nil
}

// deployV2 serves /v1/deploy.
func (s *Server) deployV2(ctx context.Context, x *exchange, _ *http.Request) error {
	if f := x.authority(); f != nil {
		return f
	}
	if x.who.claims.Username == "" {
		return noUsername()
	}
	if err := x.out.send(x.accepted()); err != nil {
		return err
	}
	in, err := x.in.oldest()
	if err != nil {
		return err
	}
	m, err := account.VerifyManifest(in.begin.Manifest, in.begin.Sig, x.key[:])
	if err != nil {
		return err
	}
	if !x.who.named(m) {
		return fatal(wire.CodeUnauthorized, "the manifest names another owner than the token", "deploy with the owner's token")
	}
	_, zip, sum, err := x.receive(ctx)
	if err != nil {
		return err
	}
	defer zip.release()
	if !bytes.Equal(m.Checksum, sum[:]) {
		return fatal(wire.CodeInvalidFunction, "what came is not the function that its manifest describes", "deploy it again")
	}
	// The function seals to its account. Clients of version 1 encrypt to the legacy key, which
	// they ask for by name alone.
	c := x.who.claims
	for _, h := range []vault.Holder{vault.Account(*x.who.acct), vault.LegacyUser(c.Subject)} {
		if _, err := s.cfg.Vault.EnsureKey(ctx, h, c.Subject, c.Username); err != nil {
			return err
		}
	}
	id, err := s.cfg.Vault.Store(ctx, vault.Deploy{Manifest: in.begin.Manifest, Sig: in.begin.Sig, Key: x.key[:],
		Username: c.Username}, bytes.NewReader(zip.bytes()), int64(len(zip.bytes())))
	if err != nil {
		return err
	}
	return x.out.send(&wire.Deployed{ID: id, Checksum: sum[:]})
}

// testV2 serves /v1/test: a function, of which nothing is stored, then inputs.
func (s *Server) testV2(ctx context.Context, x *exchange, _ *http.Request) error {
	if f := x.authority(); f != nil {
		return f
	}
	if err := x.out.send(x.accepted()); err != nil {
		return err
	}
	in, zip, sum, err := x.receive(ctx)
	if err != nil {
		return err
	}
	fn, err := s.cfg.Vault.Temporary(ctx, x.who.claims.Subject, x.who.tenant.checks, bytes.NewReader(zip.bytes()), int64(len(zip.bytes())))
	zip.release()
	if err != nil {
		return err
	}
	prog := s.trial(fn, sum, x.who)
	defer prog.close()
	if err := x.in.answered(in); err != nil {
		return err
	}
	return x.answer(ctx, prog)
}

// keyV2 serves /v1/key for the caller's own Cape Key, which is made if there is none: the
// account's, or in a session without an account's authority the legacy key.
func (s *Server) keyV2(ctx context.Context, x *exchange, _ *http.Request) error {
	if f := x.owner(); f != nil {
		return f
	}
	c := x.who.claims
	h := vault.LegacyUser(c.Subject)
	if x.who.acct != nil {
		h = vault.Account(*x.who.acct)
	}
	if _, err := s.cfg.Vault.EnsureKey(ctx, h, c.Subject, c.Username); err != nil {
		return err
	}
	return x.out.send(x.accepted())
}

func (s *Server) keyOf(ctx context.Context, of *wire.KeyOf) (*vault.CapeKey, error) {
	if of.Acct != nil {
		return s.cfg.Vault.Key(ctx, vault.Account([32]byte(of.Acct)))
	}
	return s.cfg.Vault.KeyOfUser(ctx, of.User, false)
}
