package trust

import (
	"bytes"
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/cape-functions/cape/core/attest"
	"github.com/cape-functions/cape/core/attest/nitro"
	"github.com/cape-functions/cape/core/attest/policy"
)

// Policy is a Judge that accepts what it was told and remembers nothing. The zero
// Policy accepts nothing: leaving a check out takes a field whose name says so.
type Policy struct {
	// Roots are the acceptable root certificates, DER; chain.AWSRoot is AWS's.
	Roots [][]byte
	// PCRs are the expected measurements: for each index, one of the values.
	PCRs map[int][]nitro.PCR
	// KeyPolicies are the acceptable SHA-256 sums of the KMS key policy.
	KeyPolicies [][32]byte
	// KeyPolicyNotChecked accepts any key policy that opens for no other images than PCRs
	// accepts. Documents of v1 do not show that: with them, it accepts any.
	KeyPolicyNotChecked bool
	// Accounts are the accounts of users whose functions are called by name, or whose
	// Cape Keys are used.
	Accounts map[string][32]byte
	// AccountsNotChecked accepts any account: the server says whose function a name is.
	AccountsNotChecked bool
	// AllowDebug accepts enclaves in debug mode, whose memory the host can read.
	AllowDebug bool
	// MaxAge bounds the age of a live document; zero means one hour.
	MaxAge time.Duration
}

// Enclave implements [Judge].
func (p Policy) Enclave(_ context.Context, c Contact) (*attest.Evidence, error) {
	if len(p.KeyPolicies) == 0 && !p.KeyPolicyNotChecked {
		return nil, fmt.Errorf("%w: the policy names no key policy", attest.ErrPolicy)
	}
	ev, claims, err := verify(c, policy.Policy{
		Roots: p.Roots, PCRs: p.PCRs, AllowDebug: p.AllowDebug, MaxAge: p.MaxAge,
	})
	if err != nil {
		return nil, err
	}
	if p.KeyPolicyNotChecked || claims.KeyPolicy == nil {
		if d := foreign(p.PCRs, claims); len(d) > 0 && c.KeyPolicy == nil {
			for i := range d {
				d[i].Stated = true
			}
			return nil, &Change{Origin: c.Origin, Differences: d}
		}
		ev.Checks = append(ev.Checks, pinChecks(policy.NotChecked, claims)...)
		return ev, nil
	}
	var old []string
	for _, sum := range p.KeyPolicies {
		if bytes.Equal(sum[:], claims.KeyPolicy) {
			ev.Checks = append(ev.Checks, pinChecks(policy.Held, claims)...)
			return ev, nil
		}
		old = append(old, hex.EncodeToString(sum[:]))
	}
	return nil, &Change{Origin: c.Origin, Differences: []Difference{
		{What: "key policy", Old: old, New: hex.EncodeToString(claims.KeyPolicy), Stated: true}}}
}

// Expected implements [Judge].
func (p Policy) Expected(_ context.Context, code Code) (Expected, error) {
	user, _, _ := strings.Cut(code.Name, "/")
	if account, ok := p.Accounts[user]; ok {
		return Expected{Account: account[:]}, nil
	}
	return Expected{}, nil
}

// Function implements [Judge]: a function that is called by name must be pinned in the
// call, or belong to the account that the policy names for its user. An id pins itself.
func (p Policy) Function(_ context.Context, code Code) error {
	if code.Manifest == nil || code.Name == "" || code.Pinned || code.Deployed {
		return nil
	}
	user, _, _ := strings.Cut(code.Name, "/")
	return p.account(code.Origin, code.Name, user, accountOf(code.Manifest))
}

// Recipient implements [Judge].
func (p Policy) Recipient(_ context.Context, h Holder) error {
	return p.account(h.Origin, h.User, h.User, hex.EncodeToString(h.Account[:]))
}

func (p Policy) account(origin, name, user, found string) error {
	want, ok := p.Accounts[user]
	switch {
	case p.AccountsNotChecked:
		return nil
	case !ok:
		return &UnknownAccount{Origin: origin, Name: name, Account: found}
	case hex.EncodeToString(want[:]) != found:
		return &Change{Origin: origin, Differences: []Difference{
			{What: "account of " + name, Old: []string{hex.EncodeToString(want[:])}, New: found, Stated: true}}}
	}
	return nil
}

// Nobody is the Judge of a client that was given none: it refuses everything.
type Nobody struct{}

// Enclave implements [Judge].
func (Nobody) Enclave(context.Context, Contact) (*attest.Evidence, error) {
	return nil, fmt.Errorf("%w: no policy was given, and none accepts nothing", attest.ErrPolicy)
}

// Expected implements [Judge].
func (Nobody) Expected(context.Context, Code) (Expected, error) { return Expected{}, nil }

// Recipient implements [Judge].
func (Nobody) Recipient(context.Context, Holder) error { return ErrTrust }

// Function implements [Judge].
func (Nobody) Function(context.Context, Code) error { return ErrTrust }

// verify fills the parts of the policy that come from the contact, verifies, and reads
// the claims. p holds roots, measurements and debug mode.
func verify(c Contact, p policy.Policy) (*attest.Evidence, Claims, error) {
	if c.Archived {
		p.TimeFromDocument, p.MaxAge = true, 0
		p.NonceNotChecked = len(c.Nonce) == 0
	}
	p.Nonce = c.Nonce
	p.RequireUserData = true
	ev, err := attest.Verify(c.Verifier, c.Document, p, c.At)
	if err != nil {
		return nil, Claims{}, err
	}
	claims, err := c.Claims(ev)
	if err != nil {
		return nil, Claims{}, err
	}
	if claims.KeyPolicy != nil && len(claims.KeyPolicy) != 32 {
		return nil, Claims{}, fmt.Errorf("%w: the key policy's sum has %d bytes", attest.ErrField, len(claims.KeyPolicy))
	}
	return ev, claims, nil
}

func keyPolicyCheck(state policy.State, claims Claims) policy.Check {
	detail := hex.EncodeToString(claims.KeyPolicy)
	if claims.KeyPolicy == nil {
		state, detail = policy.NotChecked, "documents of this kind do not carry it"
	}
	return policy.Check{Name: "key_policy", State: state, Detail: detail}
}

// IsAttestation tells whether err is a refusal of a document by package attest.
func IsAttestation(err error) bool {
	for _, target := range []error{attest.ErrMalformed, attest.ErrRoot, attest.ErrChain, attest.ErrTime, attest.ErrSignature,
		attest.ErrDebug, attest.ErrPCR, attest.ErrNonce, attest.ErrField, attest.ErrPolicy} {
		if errors.Is(err, target) {
			return true
		}
	}
	return false
}
