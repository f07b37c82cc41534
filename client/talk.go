package client

import (
	"context"
	"fmt"
	"io"

	v2 "github.com/cape-functions/cape/client/internal/v2"
	"github.com/cape-functions/cape/core/attest"
	"github.com/cape-functions/cape/core/wire"
)

// talkV2 is a v2 session.
type talkV2 struct {
	client  *Client
	session *v2.Session
}

func (t talkV2) invoke(ctx context.Context, input []byte) (*Result, error) {
	if err := checkInput(input); err != nil {
		return nil, err
	}
	call, err := t.session.Invoke(ctx, input)
	if err != nil {
		return nil, err
	}
	return t.wait(ctx, call, nil)
}

func checkInput(input []byte) error {
	if int64(len(input)) > MaxInput {
		return fmt.Errorf("%w: the input has %d bytes, %d are allowed", ErrTooLarge, len(input), int64(MaxInput))
	}
	return nil
}

func (t talkV2) stream(ctx context.Context, input io.Reader, output io.Writer) (*Result, error) {
	call, err := t.session.Stream(ctx, input)
	if err != nil {
		return nil, err
	}
	return t.wait(ctx, call, output)
}

func (t talkV2) wait(ctx context.Context, call *v2.Call, output io.Writer) (*Result, error) {
	o, err := call.Wait(ctx, output)
	if err != nil {
		return nil, err
	}
	if o.Result == nil {
		return nil, fmt.Errorf("%w: it sent something else where a result is due", ErrProtocol)
	}
	if output == nil && o.Output == nil {
		o.Output = []byte{}
	}
	sums := o.Result.Checksums
	ev := t.session.Attested().Evidence
	return &Result{
		Output: o.Output, Evidence: ev,
		Checksums: Checksums{Input: [32]byte(sums.Input), Function: [32]byte(sums.Function), Output: [32]byte(sums.Output)},
		Receipt:   t.client.receipt(o, ev),
	}, nil
}

func (t talkV2) evidence() *attest.Evidence { return t.session.Attested().Evidence }

func (t talkV2) close() { t.session.Close() }

// runSealed is Run in v2, with the result in memory if output is nil. An input follows the handshake at once where the enclave was told
// which function may see it.
func (c *Client) runSealed(ctx context.Context, f Function, input []byte, output io.Writer) (*Result, error) {
	path, err := f.validate()
	if err != nil {
		return nil, err
	}
	if err := checkInput(input); err != nil {
		return nil, err
	}
	var call *v2.Call
	s, _, err := c.connectSealed(ctx, f, path, func(s *v2.Session) (err error) {
		call, err = s.Invoke(ctx, input)
		return err
	})
	if err != nil {
		return nil, err
	}
	defer s.Close()
	return talkV2{c, s}.wait(ctx, call, output)
}

// testSealed is TestStream in v2.
func (c *Client) testSealed(ctx context.Context, p *Package, input io.Reader, output io.Writer) (*Result, error) {
	if c.account == nil {
		return nil, fmt.Errorf("%w: testing a function takes one", ErrAccount)
	}
	s, err := c.openSealed(ctx, demand{}, "v1", "test")
	if err != nil {
		return nil, err
	}
	defer s.Close()
	if err := unnamed(s.Accepted(ctx)); err != nil {
		return nil, err
	}
	s.SetFunction(p.Checksum)
	if _, err := s.Function(ctx, nil, nil, p.reader(), p.uploaded); err != nil {
		return nil, err
	}
	return talkV2{c, s}.stream(ctx, input, output)
}

// unnamed accepts what an enclave says that is to be given a function: no function.
func unnamed(a *wire.Accepted, err error) error {
	if err == nil && a.Fn != nil {
		return fmt.Errorf("%w: the enclave serves a function where it is to be given one", ErrProtocol)
	}
	return err
}
