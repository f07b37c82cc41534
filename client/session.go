package client

import (
	"bytes"
	"context"
	"fmt"

	v1 "github.com/cape-functions/cape/client/internal/v1"
	"github.com/cape-functions/cape/client/trust"
	"github.com/cape-functions/cape/core/attest"
	"github.com/cape-functions/cape/core/wire"
)

// Checksums are SHA-256 sums of one invocation.
type Checksums struct {
	Input, Function, Output [32]byte
}

// Result is a verified result: its checksums are signed by the attested enclave, and
// are those of what was sent, attested and received.
type Result struct {
	// Output is what the handler returned.
	Output []byte
	// Checksums and Signature are what the enclave signed (RSA-PSS, SHA-256).
	Checksums Checksums
	Signature []byte
	// InputCompared is false only for Cape-encrypted inputs: the enclave signs the sum
	// of what the function saw, which nobody else can compute.
	InputCompared bool
	// Evidence is the document that the session was opened with.
	Evidence *attest.Evidence
}

// conversation is one protocol version's side of an open session.
type conversation interface {
	invoke(ctx context.Context, input []byte) (*Result, error)
	evidence() *attest.Evidence
	close()
}

// Session is an open connection to one function in an attested enclave. Inputs of one
// session reach one process, in order. It is safe for concurrent use.
type Session struct {
	talk     conversation
	checksum [32]byte
}

// Connect opens a session with a function: the enclave and the function's checksum are
// verified when it returns. Close the session after use.
func (c *Client) Connect(ctx context.Context, f Function) (*Session, error) {
	segments, err := f.validate()
	if err != nil {
		return nil, err
	}
	s, err := c.open(ctx, v1.Run, append([]string{"v1", "run"}, segments...)...)
	if err != nil {
		return nil, err
	}
	if err := c.accept(ctx, s.Claims(), f, len(segments) == 2); err != nil {
		s.Close()
		return nil, err
	}
	return &Session{talk: talkV1{s, c.output}, checksum: [32]byte(s.Claims().Function)}, nil
}

// accept compares the attested function with what the caller pinned and with memory.
func (c *Client) accept(ctx context.Context, claims v1.Claims, f Function, named bool) error {
	if f.Checksum != nil && !bytes.Equal(f.Checksum, claims.Function) {
		return fmt.Errorf("%w: the function is not the pinned one: the enclave attests %x, pinned is %x", ErrChecksum, claims.Function, f.Checksum)
	}
	if f.KeyPolicy != nil && !bytes.Equal(f.KeyPolicy, claims.KeyPolicy) {
		return fmt.Errorf("%w: the key policy is not the pinned one: the enclave attests %x, pinned is %x", ErrChecksum, claims.KeyPolicy, f.KeyPolicy)
	}
	code := trust.Code{Origin: c.origin, Checksum: [32]byte(claims.Function)}
	if named {
		code.Name = f.Name
	} else {
		code.ID = f.Name
	}
	return c.judge.Function(ctx, code)
}

// Run connects, invokes once and closes.
func (c *Client) Run(ctx context.Context, f Function, input []byte) (*Result, error) {
	s, err := c.Connect(ctx, f)
	if err != nil {
		return nil, err
	}
	defer s.Close()
	return s.Invoke(ctx, input)
}

// Invoke runs the function on one input. After a *RemoteError, which the handler's own
// exceptions are as well, the session can go on; after any other error it is over.
func (s *Session) Invoke(ctx context.Context, input []byte) (*Result, error) {
	return s.talk.invoke(ctx, input)
}

// Evidence returns the verified document and how it was checked.
func (s *Session) Evidence() *attest.Evidence { return s.talk.evidence() }

// Checksum returns the attested SHA-256 of the function's zip.
func (s *Session) Checksum() [32]byte { return s.checksum }

// Close ends the session, and with it the function's process and all its data.
func (s *Session) Close() { s.talk.close() }

// talkV1 is a v1 session.
type talkV1 struct {
	session *v1.Session
	output  int64
}

func (t talkV1) invoke(ctx context.Context, input []byte) (*Result, error) {
	r, err := t.session.Invoke(ctx, input, t.output)
	if err != nil {
		return nil, err
	}
	return &Result{
		Output: r.Output, Signature: r.Signature, InputCompared: r.InputCompared, Evidence: t.session.Evidence(),
		Checksums: Checksums{Input: r.Checksums.Input, Function: r.Checksums.Function, Output: r.Checksums.Output},
	}, nil
}

func (t talkV1) evidence() *attest.Evidence { return t.session.Evidence() }

func (t talkV1) close() { t.session.Close() }

// Test uploads a function, runs it once on the input, and leaves nothing behind.
func (c *Client) Test(ctx context.Context, p *Package, input []byte) (*Result, error) {
	zip, err := p.read()
	if err != nil {
		return nil, err
	}
	s, err := c.open(ctx, v1.Test, "v1", "test")
	if err != nil {
		return nil, err
	}
	defer s.Close()
	if err := s.SendFunction(ctx, zip, p.Progress); err != nil {
		return nil, err
	}
	return talkV1{s, c.output}.invoke(ctx, input)
}

// MaxInput is the largest input in bytes.
const MaxInput = wire.MaxInput
