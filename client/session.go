package client

import (
	"bytes"
	"context"
	"fmt"
	"io"

	v1 "github.com/cape-functions/cape/client/internal/v1"
	"github.com/cape-functions/cape/core/attest"
	"github.com/cape-functions/cape/core/wire"
)

// MaxInput is the largest input in bytes.
const MaxInput = wire.MaxInput

// Checksums are SHA-256 sums of one invocation.
type Checksums struct {
	Input, Function, Output [32]byte
}

// Result is a verified result: its checksums are vouched for by the attested enclave, and
// are those of what was sent, attested and received.
type Result struct {
	// Output is what the handler returned; nil if it was written to a stream.
	Output []byte
	// Checksums are what the enclave vouches for.
	Checksums Checksums
	// Receipt proves the result to others; nil in v1.
	Receipt *Receipt
	// Signature is over Checksums (RSA-PSS, SHA-256); nil in v2, where Receipt takes its
	// place.
	Signature []byte
	// Evidence is the document that the session was opened with.
	Evidence *attest.Evidence
}

// conversation is one protocol version's side of an open session.
type conversation interface {
	invoke(ctx context.Context, input []byte) (*Result, error)
	stream(ctx context.Context, input io.Reader, output io.Writer) (*Result, error)
	evidence() *attest.Evidence
	close()
}

// Session is an open connection to one function in an attested enclave. Inputs of one
// session reach one process, in order. It is safe for concurrent use: up to 16 inputs wait
// for their results at once in v2, and take turns in v1.
type Session struct {
	talk     conversation
	checksum [32]byte
}

// Connect opens a session with a function: the enclave and the function are verified when
// it returns. Close the session after use.
func (c *Client) Connect(ctx context.Context, f Function) (*Session, error) {
	path, err := f.validate()
	if err != nil {
		return nil, err
	}
	if c.protocol == ProtocolV1 {
		return c.connectV1(ctx, f, path)
	}
	s, a, err := c.connectSealed(ctx, f, path, nil)
	if err != nil {
		return nil, err
	}
	return &Session{talk: talkV2{c, s}, checksum: [32]byte(a.Fn)}, nil
}

// Run connects, invokes once and closes.
func (c *Client) Run(ctx context.Context, f Function, input []byte) (*Result, error) {
	if c.protocol == ProtocolV2 {
		return c.runSealed(ctx, f, input, nil)
	}
	s, err := c.Connect(ctx, f)
	if err != nil {
		return nil, err
	}
	defer s.Close()
	return s.Invoke(ctx, input)
}

// Stream is Run for inputs and outputs of any size; see Session.Stream.
func (c *Client) Stream(ctx context.Context, f Function, input io.Reader, output io.Writer) (*Result, error) {
	rest := input
	begin, more, err := peek(ctx, input)
	if err != nil {
		return nil, err
	}
	if !more && c.protocol == ProtocolV2 {
		return c.runSealed(ctx, f, begin, output)
	}
	if input = io.Reader(bytes.NewReader(begin)); more {
		input = io.MultiReader(input, rest)
	}
	s, err := c.Connect(ctx, f)
	if err != nil {
		return nil, err
	}
	defer s.Close()
	return s.Stream(ctx, input, output)
}

// peek reads what goes into one record, and tells whether there may be more. It does not
// wait for a Read longer than for ctx.
func peek(ctx context.Context, input io.Reader) (begin []byte, more bool, err error) {
	type answer struct {
		data []byte
		err  error
	}
	read := make(chan answer, 1)
	go func() {
		data, err := io.ReadAll(io.LimitReader(input, wire.DataPayload))
		read <- answer{data, err}
	}()
	select {
	case a := <-read:
		if a.err != nil {
			return nil, false, fmt.Errorf("reading the input: %w", a.err)
		}
		return a.data, len(a.data) == wire.DataPayload, nil
	case <-ctx.Done():
		return nil, false, context.Cause(ctx)
	}
}

// Invoke runs the function on one input. After a *RemoteError, which the handler's own
// exceptions are as well, the session can go on; after any other error it is over.
func (s *Session) Invoke(ctx context.Context, input []byte) (*Result, error) {
	return s.talk.invoke(ctx, input)
}

// Stream runs the function on what it reads and writes the result to output, in constant
// memory. What it wrote is genuine, but whole only if it returns no error. Input is read
// until its end or that of ctx; a Read that is under way then is not waited for. In v1 both
// are held in memory.
func (s *Session) Stream(ctx context.Context, input io.Reader, output io.Writer) (*Result, error) {
	return s.talk.stream(ctx, input, output)
}

// Evidence returns the verified document and how it was checked.
func (s *Session) Evidence() *attest.Evidence { return s.talk.evidence() }

// Checksum returns the attested SHA-256 of the function's zip.
func (s *Session) Checksum() [32]byte { return s.checksum }

// Close ends the session, and with it the function's process and all its data.
func (s *Session) Close() { s.talk.close() }

// connectV1 is Connect in v1.
func (c *Client) connectV1(ctx context.Context, f Function, path []string) (*Session, error) {
	s, err := c.open(ctx, v1.Run, append([]string{"v1", "run"}, path...)...)
	if err != nil {
		return nil, err
	}
	if err := c.acceptV1(ctx, s.Claims(), f, len(path) == 2); err != nil {
		s.Close()
		return nil, err
	}
	return &Session{talk: talkV1{s, c.output}, checksum: [32]byte(s.Claims().Function)}, nil
}

// acceptV1 compares the attested function with what the caller pinned and with memory.
func (c *Client) acceptV1(ctx context.Context, claims v1.Claims, f Function, named bool) error {
	switch {
	case f.Account != nil:
		return fmt.Errorf("%w: v1 tells nothing of accounts, so none can be pinned", ErrOptions)
	case f.Checksum != nil && !bytes.Equal(f.Checksum, claims.Function):
		return fmt.Errorf("%w: the function is not the pinned one: the enclave attests %x, pinned is %x", ErrPinned, claims.Function, f.Checksum)
	case f.KeyPolicy != nil && !bytes.Equal(f.KeyPolicy, claims.KeyPolicy):
		return fmt.Errorf("%w: the key policy is not the pinned one: the enclave attests %x, pinned is %x", ErrPinned, claims.KeyPolicy, f.KeyPolicy)
	}
	code := c.code(f, named)
	code.Checksum = [32]byte(claims.Function)
	return c.judge.Function(ctx, code)
}

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
		Output: r.Output, Signature: r.Signature, Evidence: t.session.Evidence(),
		Checksums: Checksums{Input: r.Checksums.Input, Function: r.Checksums.Function, Output: r.Checksums.Output},
	}, nil
}

func (t talkV1) stream(ctx context.Context, input io.Reader, output io.Writer) (*Result, error) {
	data, err := io.ReadAll(io.LimitReader(input, MaxInput+1)) // Invoke refuses the byte too many
	if err != nil {
		return nil, fmt.Errorf("reading the input: %w", err)
	}
	r, err := t.invoke(ctx, data)
	if err != nil {
		return nil, err
	}
	if _, err := output.Write(r.Output); err != nil {
		return nil, fmt.Errorf("writing the result: %w", err)
	}
	r.Output = nil
	return r, nil
}

func (t talkV1) evidence() *attest.Evidence { return t.session.Evidence() }

func (t talkV1) close() { t.session.Close() }

// Test uploads a function, runs it once on the input, and leaves nothing behind.
func (c *Client) Test(ctx context.Context, p *Package, input []byte) (*Result, error) {
	var output bytes.Buffer
	r, err := c.TestStream(ctx, p, bytes.NewReader(input), &output)
	if err != nil {
		return nil, err
	}
	r.Output = output.Bytes()
	return r, nil
}

// TestStream is Test for inputs and outputs of any size, as Session.Stream.
func (c *Client) TestStream(ctx context.Context, p *Package, input io.Reader, output io.Writer) (*Result, error) {
	if c.protocol == ProtocolV2 {
		return c.testSealed(ctx, p, input, output)
	}
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
	return talkV1{s, c.output}.stream(ctx, input, output)
}
