// Package attest verifies attestation documents of AWS Nitro Enclaves, and of
// development enclaves that speak the same format.
//
// It trusts the roots and measurements in the caller's policy and the time the caller
// passes. It refuses everything that spec/attestation.md does not list as acceptable,
// and gives out no part of a document that it refused. Clients call it before they send
// anything, the local KMS before it releases a key, the CLI to show a document.
package attest

import (
	"bytes"
	"encoding/hex"
	"errors"
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

// Verify checks raw against the policy at the time at, stops at the first failure, and
// returns no evidence with an error. A nil Verifier works and remembers nothing.
func Verify(v *chain.Verifier, raw []byte, p policy.Policy, at time.Time) (*Evidence, error) {
	if err := p.Validate(); err != nil {
		return nil, err
	}
	s, err := nitro.Parse(raw)
	if err != nil {
		return nil, err
	}
	c, err := v.Verify(s, p.Roots, p.ChainTime(s.Document, at))
	if err != nil {
		return nil, err
	}
	checks := append(authenticity(s, c, nil), p.Check(s.Document, at)...)
	for _, check := range checks {
		if check.State == policy.Failed {
			return nil, check.Err
		}
	}
	return &Evidence{
		Document:        s.Document,
		Root:            c.Root,
		DevelopmentRoot: isDevelopment(c.Root),
		Debug:           policy.Debug(s.Document),
		Checks:          checks,
		Raw:             bytes.Clone(raw),
	}, nil
}

func isDevelopment(root [32]byte) bool {
	return hex.EncodeToString(root[:]) != chain.AWSRootSHA256
}

// Class returns the name of an error's class, the same in every language that reads the
// vectors: "policy", "malformed", "root", "chain", "time", "signature", "debug", "pcr",
// "nonce", "field"; "accept" for nil, and "unknown" for an error of something else.
func Class(err error) string {
	if err == nil {
		return "accept"
	}
	for _, c := range []struct {
		err  error
		name string
	}{
		{ErrPolicy, "policy"}, {ErrMalformed, "malformed"}, {ErrRoot, "root"}, {ErrChain, "chain"},
		{ErrTime, "time"}, {ErrSignature, "signature"}, {ErrDebug, "debug"}, {ErrPCR, "pcr"},
		{ErrNonce, "nonce"}, {ErrField, "field"},
	} {
		if errors.Is(err, c.err) {
			return c.name
		}
	}
	return "unknown"
}
