package attest

import (
	"crypto/sha256"
	"errors"
	"fmt"
	"time"

	"github.com/cape-functions/cape/core/attest/chain"
	"github.com/cape-functions/cape/core/attest/nitro"
	"github.com/cape-functions/cape/core/attest/policy"
)

// Report is what Inspect found: for people, never a basis for trust unless Err is nil.
type Report struct {
	// Document is what could be read, unverified unless Err is nil; nil when malformed.
	Document *nitro.Document
	// Root is the SHA-256 of the first certificate of the bundle, as the document claims.
	Root [32]byte
	// DevelopmentRoot tells that the root is not AWS's.
	DevelopmentRoot bool
	// Debug tells that PCR0, PCR1 or PCR2 is all zero.
	Debug bool
	// Checks lists every check in order, failed ones included.
	Checks []Check
	// Err is the first failure, what Verify returns; nil when everything held.
	Err error
}

// Inspect runs the checks of Verify and reports each line, going on after a failure as
// far as there is something to look at. What agrees in a document that is not authentic
// is reported as not checked, with the reason.
func Inspect(v *chain.Verifier, raw []byte, p policy.Policy, at time.Time) *Report {
	r := &Report{Err: p.Validate()}
	if r.Err != nil {
		r.Checks = append(r.Checks, Check{Name: "policy", State: policy.Failed, Detail: r.Err.Error(), Err: r.Err})
	}
	s, err := nitro.Parse(raw)
	if err != nil {
		r.fail("structure", err)
		return r
	}
	r.Document = &s.Document
	r.Root = sha256.Sum256(s.Document.CABundle[0])
	r.DevelopmentRoot = isDevelopment(r.Root)
	r.Debug = policy.Debug(s.Document)
	if r.Err != nil {
		r.Checks = append(r.Checks, structure(s))
		return r
	}
	c, err := v.Verify(s, p.Roots, p.ChainTime(s.Document, at))
	r.Checks = append(r.Checks, authenticity(s, c, err)...)
	r.Err = err
	for _, check := range p.Check(s.Document, at) {
		switch {
		case check.State == policy.Failed && r.Err == nil:
			r.Err = check.Err
		case check.State == policy.Held && err != nil:
			check.State = policy.NotChecked
			check.Detail = "agrees, but the document is not authentic: " + check.Detail
		}
		r.Checks = append(r.Checks, check)
	}
	return r
}

func (r *Report) fail(name string, err error) {
	r.Checks = append(r.Checks, Check{Name: name, State: policy.Failed, Detail: err.Error(), Err: err})
	if r.Err == nil {
		r.Err = err
	}
}

func structure(s *nitro.Signed) Check {
	return Check{Name: "structure", State: policy.Held,
		Detail: fmt.Sprintf("COSE_Sign1 with ES384, %d PCRs, %d certificates", len(s.Document.PCRs), len(s.Document.CABundle)+1)}
}

// authenticity returns the lines for what chain.Verify does, in its order; err is what it
// returned.
func authenticity(s *nitro.Signed, c chain.Chain, err error) []Check {
	checks := []Check{structure(s)}
	broken := false
	for _, line := range []struct {
		name, detail string
		class        error
	}{
		{"root", rootDetail(sha256.Sum256(s.Document.CABundle[0])), ErrRoot},
		{"chain", "each certificate was issued by the one before it", ErrChain},
		{"validity", validityDetail(c), ErrTime},
		{"signature", "made by the key of the leaf certificate", ErrSignature},
	} {
		switch {
		case broken:
			checks = append(checks, Check{Name: line.name, State: policy.NotChecked, Detail: "not looked at: an earlier check failed"})
		case errors.Is(err, line.class):
			checks = append(checks, Check{Name: line.name, State: policy.Failed, Detail: err.Error(), Err: err})
			broken = true
		default:
			checks = append(checks, Check{Name: line.name, State: policy.Held, Detail: line.detail})
		}
	}
	return checks
}

func rootDetail(root [32]byte) string {
	if isDevelopment(root) {
		return fmt.Sprintf("DEVELOPMENT root %x, accepted by the policy: not AWS's", root)
	}
	return fmt.Sprintf("AWS Nitro Enclaves root G1, %x", root)
}

// validityDetail has dates only for a chain that verified as a whole.
func validityDetail(c chain.Chain) string {
	if c == (chain.Chain{}) {
		return "every certificate is valid at the time of the check"
	}
	return fmt.Sprintf("certificates are valid from %s to %s",
		c.NotBefore.UTC().Format(time.RFC3339), c.NotAfter.UTC().Format(time.RFC3339))
}
