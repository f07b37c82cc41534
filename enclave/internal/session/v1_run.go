package session

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"

	"github.com/coder/websocket"

	"github.com/cape-functions/cape/core/seal"
	"github.com/cape-functions/cape/core/wire"
	"github.com/cape-functions/cape/enclave/internal/vault"
)

// run serves /v1/run: it admits before the upgrade, so that a refusal has a status.
func (s *Server) run(ctx context.Context, v *visit, w http.ResponseWriter, r *http.Request) {
	p, claims, f := v.enter(ctx, r, s.authenticate)
	if f != nil {
		v.refuse(w, f)
		return
	}
	who := caller{claims: claims, tenant: v.tenant}
	rec, f := s.find(ctx, who, r)
	if f != nil {
		v.refuse(w, f)
		return
	}
	defer rec.Close() // does nothing once it was loaded
	v.converse(ctx, w, r, p.chosen, func(ctx context.Context, c *channel) error {
		return s.runV1(ctx, c, who, rec)
	})
}

func (s *Server) runV1(ctx context.Context, c *channel, who caller, rec *vault.Record) error {
	nonce, err := c.nonceV1()
	if err != nil {
		return err
	}
	c.watch.begin()
	fn, err := s.cfg.Vault.Load(ctx, rec, who.tenant.checks)
	c.watch.end()
	if err != nil {
		return err
	}
	prog := s.program(fn, who)
	defer prog.close()
	key, err := c.introduceSigner(nonce, wire.UserDataV1{FuncChecksum: prog.checksum[:], KeyChecksum: c.v.policySum()})
	if err != nil {
		return err
	}
	defer key.Wipe()
	return c.invocations(ctx, prog, key)
}

// input is one frame of a caller: opened, or why not.
type input struct {
	plain *buffer // counted until it is released
	err   error
	taken chan struct{} // not nil: the reader waits until it is closed
}

// largeInput is the size from which on no further input is read ahead.
const largeInput = 1 << 20

// invocations answers inputs in their order until the client leaves. The next ones are read
// and opened while the handler runs; so a client that leaves ends its handler.
func (c *channel) invocations(ctx context.Context, prog *program, key *seal.SessionKey) error {
	ctx, cancel := context.WithCancel(ctx)
	queue := make(chan input, wire.MaxPipelined)
	defer func() {
		cancel()
		go func() { // the reader ends with the connection
			for in := range queue {
				in.plain.release()
			}
		}()
	}()
	go func() {
		defer close(queue)
		defer cancel()
		defer c.v.recover()
		c.readInputs(ctx, key, queue)
	}()
	for in := range queue {
		err := in.err
		if err == nil {
			err = c.invoke(ctx, prog, in.plain.bytes())
			in.plain.release()
		}
		if in.taken != nil {
			close(in.taken)
		}
		if err == nil {
			c.watch.end()
			continue
		}
		if ctx.Err() != nil {
			return errGone
		}
		f := faultOf(err)
		if f.fatal {
			return err
		}
		if err := c.fail(f); err != nil {
			return err
		}
		c.watch.end()
	}
	return errGone
}

// readInputs reads until the connection ends or cannot go on.
func (c *channel) readInputs(ctx context.Context, key *seal.SessionKey, queue chan<- input) {
	limit := int64(c.v.s.cfg.Limits.Input) + wire.SealOverhead
	for {
		in := c.readInput(key, limit)
		if errors.Is(in.err, errGone) {
			return
		}
		c.watch.begin()
		select {
		case queue <- in:
		case <-ctx.Done():
			in.plain.release()
			return
		}
		var f *fault
		if errors.As(in.err, &f) && f.fatal {
			<-ctx.Done() // the rest of the message is still on its way: nothing more can be read
			return
		}
		if in.taken != nil {
			select {
			case <-in.taken:
			case <-ctx.Done():
				return
			}
		}
	}
}

func (c *channel) readInput(key *seal.SessionKey, limit int64) input {
	b, err := c.sealed(key, limit)
	if err != nil {
		return input{err: err}
	}
	in := input{plain: b}
	if len(b.bytes()) >= largeInput {
		in.taken = make(chan struct{})
	}
	return in
}

// sealed reads a frame and opens it. The caller must release it.
func (c *channel) sealed(key *seal.SessionKey, limit int64) (*buffer, error) {
	b, err := c.next(websocket.MessageBinary, limit)
	if err != nil {
		return nil, err
	}
	twice := int64(len(b.bytes())) // while it is opened
	if err := b.mem.take(twice); err != nil {
		b.release()
		return nil, err
	}
	defer b.mem.give(twice)
	plain, err := key.Open(b.bytes())
	if err != nil {
		b.release()
		return nil, err
	}
	b.replace(plain)
	clear(plain)
	return b, nil
}

// invoke runs the handler on one input and sends the result.
func (c *channel) invoke(ctx context.Context, prog *program, plain []byte) error {
	s := c.v.s
	out := c.v.tenant.buffer(int64(s.cfg.Limits.Output))
	defer out.release()
	sum := sha256.Sum256(plain)
	if err := prog.invoke(ctx, bytes.NewReader(plain), out); err != nil {
		return err
	}
	sums := seal.Checksums{Input: sum, Function: prog.checksum, Output: sha256.Sum256(out.bytes())}
	signer, err := s.cfg.SigningKey()
	if err != nil {
		return fmt.Errorf("making the signing key: %w", err)
	}
	sig, err := seal.SignChecksums(signer, sums)
	if err != nil {
		return err
	}
	tail, err := resultTail(sums, sig)
	if err != nil {
		return err
	}
	return c.sendResult(out.bytes(), tail)
}

// resultTail is what follows the output in the JSON of a result.
func resultTail(sums seal.Checksums, sig []byte) ([]byte, error) {
	b, err := json.Marshal(struct {
		Checksums       wire.ChecksumsV1 `json:"checksums"`
		SignedChecksums []byte           `json:"signed_checksums"`
	}{wire.ChecksumsV1{Input: sums.Input[:], Function: sums.Function[:], Output: sums.Output[:]}, sig})
	if err != nil {
		return nil, fmt.Errorf("encoding result: %w", err)
	}
	return append(append([]byte(`",`), b[1:]...), '}'), nil
}
