// Package attest verifies attestation documents of AWS Nitro Enclaves, and of
// development enclaves that speak the same format.
//
// It trusts the roots and measurements in the caller's policy and the time the caller
// passes. It refuses everything that spec/attestation.md does not list as acceptable,
// and gives out no part of a document that it refused. Clients call it before they send
// anything, the local KMS before it releases a key, the CLI to show a document.
package attest

import (
	"time"

	"github.com/cape-functions/cape/core/attest/chain"
	"github.com/cape-functions/cape/core/attest/nitro"
	"github.com/cape-functions/cape/core/attest/policy"
)

// The classes of refusal; every error of Verify matches exactly one, found with errors.Is.
var (
	// ErrMalformed: the bytes are not a document of the NSM's format.
	ErrMalformed = nitro.ErrMalformed
	// ErrRoot: the chain does not begin with an accepted root.
	ErrRoot = chain.ErrRoot
	// ErrChain: the certificates do not form a proper chain.
	ErrChain = chain.ErrChain
	// ErrTime: certificates or document are not of the time of the check.
	ErrTime = chain.ErrTime
	// ErrSignature: the document was not signed by the leaf's key.
	ErrSignature = chain.ErrSignature
	// ErrDebug: the enclave runs in debug mode and the policy does not allow it.
	ErrDebug = policy.ErrDebug
	// ErrPCR: a measurement is missing or not among the expected ones.
	ErrPCR = policy.ErrPCR
	// ErrNonce: the nonce is missing or not the expected one.
	ErrNonce = policy.ErrNonce
	// ErrField: a field that the policy requires is absent or empty.
	ErrField = policy.ErrField
	// ErrPolicy: the policy itself cannot be used; no document was looked at.
	ErrPolicy = policy.ErrPolicy
)

// Check is one line of what was checked.
type Check = policy.Check

// Evidence is a document that was verified, and how.
type Evidence struct {
	// Document is the verified content.
	Document nitro.Document
	// Root is the SHA-256 of the DER of the root that the chain begins with.
	Root [32]byte
	// DevelopmentRoot tells that the root is not AWS's.
	DevelopmentRoot bool
	// Debug tells that the enclave is in debug mode.
	Debug bool
	// Checks lists each check that held or that the policy left out by name.
	Checks []Check
	// Raw is a copy of the bytes that were verified.
	Raw []byte
}

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

// Verify checks raw against the policy at the time at, stops at the first failure, and
// returns no evidence with an error.
func Verify(v *chain.Verifier, raw []byte, p policy.Policy, at time.Time) (*Evidence, error) {
	return nil, ErrPolicy
}

// Inspect runs the checks of Verify and reports each line, going on after a failure as
// far as there is something to look at.
func Inspect(v *chain.Verifier, raw []byte, p policy.Policy, at time.Time) *Report {
	return &Report{Err: ErrPolicy}
}
