package client

import (
	"bytes"
	"context"
	"errors"
	"fmt"

	v2 "github.com/cape-functions/cape/client/internal/v2"
	"github.com/cape-functions/cape/client/trust"
	"github.com/cape-functions/cape/core/account"
	"github.com/cape-functions/cape/core/wire"
)

// code is what Trust is asked about.
func (c *Client) code(f Function, named bool) trust.Code {
	code := trust.Code{Origin: c.origin, Pinned: f.Checksum != nil || f.Account != nil}
	if named {
		code.Name = f.Name
	} else {
		code.ID = f.Name
	}
	return code
}

// expect is what the enclave is told to demand of a function: what the call pins, and what
// is remembered of it. The second result tells whether anything is demanded.
func (c *Client) expect(ctx context.Context, f Function, code trust.Code) (wire.Expect, bool, error) {
	known, err := c.judge.Expected(ctx, code)
	if err != nil {
		return wire.Expect{}, false, err
	}
	e := wire.Expect{Fn: known.Checksum, Acct: known.Account}
	if f.Checksum != nil {
		e.Fn = f.Checksum
	}
	if f.Account != nil {
		e.Acct = f.Account
	}
	if known.Seq > 0 && e.Acct != nil {
		e.Seq = &known.Seq
	}
	return e, e.Fn != nil || e.Acct != nil, nil
}

// shown is what an enclave showed of its function, compared with itself.
func shown(a *wire.Accepted, path []string) (*wire.Manifest, error) {
	if a.Fn == nil {
		return nil, fmt.Errorf("%w: the enclave does not say which function it serves", ErrProtocol)
	}
	var m *wire.Manifest
	var err error
	if a.Sig != nil {
		m, err = account.VerifyManifest(a.Manifest, a.Sig, a.Key)
	} else if m, err = wire.ParseManifest(a.Manifest); err == nil && m.Acct != nil {
		err = fmt.Errorf("%w: its signature was taken away", account.ErrManifest)
	}
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrChecksum, err)
	}
	switch {
	case !bytes.Equal(m.Checksum, a.Fn):
		return nil, fmt.Errorf("%w: the manifest is of the code %x, the enclave serves %x", ErrChecksum, m.Checksum, a.Fn)
	case len(path) == 1 && wire.FunctionID(a.Manifest) != path[0]:
		return nil, fmt.Errorf("%w: the manifest is that of another function than %s", ErrChecksum, path[0])
	case len(path) == 2 && m.Name != path[1]:
		return nil, fmt.Errorf("%w: the manifest is that of a function called %s", ErrChecksum, m.Name)
	}
	return m, nil
}

// acceptSealed compares what the enclave serves with its manifest, with what the call pins,
// and with what Trust remembers.
func (c *Client) acceptSealed(ctx context.Context, s *v2.Session, f Function, path []string) (*wire.Accepted, error) {
	a, err := s.Accepted(ctx)
	if err != nil {
		return nil, err
	}
	m, err := shown(a, path)
	if err != nil {
		return nil, err
	}
	switch {
	case f.Checksum != nil && !bytes.Equal(f.Checksum, a.Fn):
		return nil, fmt.Errorf("%w: the function is not the pinned one: the enclave serves %x, pinned is %x", ErrPinned, a.Fn, f.Checksum)
	case f.Account != nil && !bytes.Equal(f.Account, m.Acct):
		return nil, fmt.Errorf("%w: the function is signed by the account %x, pinned is %x", ErrPinned, m.Acct, f.Account)
	}
	code := c.code(f, len(path) == 2)
	code.Checksum, code.Manifest = [32]byte(a.Fn), m
	return a, c.judge.Function(ctx, code)
}

// connectSealed opens a session with a function; first, if not nil, is called as soon as
// something may be sent: at once if the enclave was told what to demand, else when what it
// serves was accepted.
//
// An enclave that refuses a demand does not say what it serves instead. So it is asked once
// more without one, and without anything being sent, for an error that tells.
func (c *Client) connectSealed(ctx context.Context, f Function, path []string, first func(*v2.Session) error) (*v2.Session, *wire.Accepted, error) {
	route := append([]string{"v1", "run"}, path...)
	expect, demanded, err := c.expect(ctx, f, c.code(f, len(path) == 2))
	if err != nil {
		return nil, nil, err
	}
	s, err := c.openSealed(ctx, demand{policy: f.KeyPolicy, expect: expect}, route...)
	if err != nil {
		return nil, nil, err
	}
	if demanded && first != nil {
		if err := first(s); err != nil {
			first = nil // why is told below, by who refused
		}
	}
	a, err := c.acceptSealed(ctx, s, f, path)
	if err != nil {
		s.Close()
		if refused := remoteOf(err); refused != nil && demanded {
			return nil, nil, c.explain(ctx, f, path, err)
		}
		return nil, nil, err
	}
	if !demanded && first != nil {
		if err := first(s); err != nil {
			s.Close()
			return nil, nil, err
		}
	}
	return s, a, nil
}

// explain returns why what the enclave serves is not acceptable, or the enclave's own
// refusal if it serves nothing at all.
func (c *Client) explain(ctx context.Context, f Function, path []string, refusal error) error {
	s, err := c.openSealed(ctx, demand{policy: f.KeyPolicy}, append([]string{"v1", "run"}, path...)...)
	if err != nil {
		return refusal
	}
	defer s.Close()
	if _, err := c.acceptSealed(ctx, s, f, path); err != nil && remoteOf(err) == nil {
		return err
	}
	return refusal
}

func remoteOf(err error) *RemoteError {
	var remote *RemoteError
	if errors.As(err, &remote) {
		return remote
	}
	return nil
}
