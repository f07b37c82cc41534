package client

import (
	"bytes"
	"context"
	"crypto/sha256"
	"fmt"
	"strings"
	"time"

	v2 "github.com/cape-functions/cape/client/internal/v2"
	"github.com/cape-functions/cape/client/trust"
	"github.com/cape-functions/cape/core/attest"
	"github.com/cape-functions/cape/core/attest/policy"
	"github.com/cape-functions/cape/core/seal"
	"github.com/cape-functions/cape/core/secret"
	"github.com/cape-functions/cape/core/wire"
)

// slowSealed is how long a judge may think before the enclave has given up the handshake.
const slowSealed = 8 * time.Second

// demand is what one sealed session must be.
type demand struct {
	// policy pins the SHA-256 of the key policy; nil: nothing more than Trust does.
	policy []byte
	// expect is what the enclave is told to demand of the function.
	expect wire.Expect
}

// openSealed starts a v2 session on the path: the enclave is verified when it returns, and
// the token is on its way to it alone. A judge that took long, because it asked somebody,
// gets a fresh connection and document.
func (c *Client) openSealed(ctx context.Context, d demand, path ...string) (*v2.Session, error) {
	token, err := c.link.CallerToken(ctx)
	if err != nil {
		return nil, err
	}
	for again := false; ; again = true {
		socket, err := c.link.Dial(ctx, wire.SubprotocolV2, path...)
		if err != nil {
			return nil, err
		}
		begin := c.now()
		var took time.Duration
		judge := c.sealedJudge(d.policy)
		opening := seal.Opening{Token: secret.New([]byte(token)), Key: c.account, Grant: c.grant, Expect: d.expect}
		s, err := v2.Open(ctx, socket, routeOf(path), func(ctx context.Context, a v2.Answer) (*seal.Attested, error) {
			attested, err := judge(ctx, a)
			took = c.now().Sub(begin)
			return attested, err
		}, opening, v2.Options{MaxOutput: c.output, Log: c.log, Births: &c.births})
		if err != nil {
			return nil, attestation(err)
		}
		if took < slowSealed || again {
			return s, nil
		}
		s.Close()
	}
}

// routeOf is the route of a hello: the path below the server's own.
func routeOf(path []string) string { return "/" + strings.Join(path, "/") }

// sealedJudge asks Trust about an answer, and binds what came with the document to it.
func (c *Client) sealedJudge(pinned []byte) v2.Judge {
	return func(ctx context.Context, a v2.Answer) (*seal.Attested, error) {
		ev, err := c.judge.Enclave(ctx, trust.Contact{
			Origin: c.origin, Document: a.Document, Nonce: a.Nonce, At: c.now(), Verifier: c.verifier, KeyPolicy: pinned,
			Claims: func(ev *attest.Evidence) (trust.Claims, error) {
				attested, err := bind(a, ev, pinned)
				if err != nil {
					return trust.Claims{}, err
				}
				return claimsOf(attested)
			},
		})
		if err != nil {
			return nil, err
		}
		attested, err := bind(a, ev, pinned) // a judge that looked at nothing has not asked for it
		if err != nil {
			return nil, err
		}
		ev.Checks = append(ev.Checks, sealedChecks(attested)...)
		return attested, nil
	}
}

// bind binds what came with a document to it, and compares the key policy with the pinned one.
func bind(a v2.Answer, ev *attest.Evidence, pinned []byte) (*seal.Attested, error) {
	attested, err := a.Bind(ev)
	if err != nil {
		return nil, err
	}
	if sum := sha256.Sum256(attested.Policy); pinned != nil && !bytes.Equal(pinned, sum[:]) {
		return nil, fmt.Errorf("%w: the key policy is not the pinned one: the enclave attests %x, pinned is %x", ErrPinned, sum, pinned)
	}
	return attested, nil
}

func claimsOf(a *seal.Attested) (trust.Claims, error) {
	encoded, err := wire.Marshal(a.Config.Trust)
	if err != nil {
		return trust.Claims{}, err
	}
	sum := sha256.Sum256(a.Policy)
	return trust.Claims{KeyPolicy: sum[:], KMS: a.KMS, Trust: encoded, PCR0: a.Admits.PCR0, PCR8: a.Admits.PCR8}, nil
}

// sealedChecks are the lines of a report about what a session's document vouches for.
func sealedChecks(a *seal.Attested) []policy.Check {
	line := func(state policy.State, name, detail string) policy.Check {
		return policy.Check{Name: name, State: state, Detail: detail}
	}
	checks := []policy.Check{
		line(policy.Held, "pcr16", "measures the trust in the attested configuration"),
		line(policy.Held, "birth", "the KMS key was born in an enclave, with this policy"),
	}
	if a.ReceiptKey != nil {
		checks = append(checks, line(policy.Held, "session_key", "X-Wing (ML-KEM-768 and X25519), made for this session"))
	}
	if a.TLS != nil {
		return append(checks, line(policy.Held, "tls", fmt.Sprintf("ends in the enclave: %x", a.TLS)))
	}
	return append(checks, line(policy.NotChecked, "tls", "ends at the host, which carries sealed records alone"))
}
