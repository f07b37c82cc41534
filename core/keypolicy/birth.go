package keypolicy

import (
	"bytes"
	"crypto/sha256"
	"errors"
	"fmt"
	"time"

	"github.com/cape-functions/cape/core/attest"
	"github.com/cape-functions/cape/core/attest/chain"
	"github.com/cape-functions/cape/core/attest/nitro"
	"github.com/cape-functions/cape/core/attest/policy"
	"github.com/cape-functions/cape/core/wire"
)

// Registers that a policy names.
const (
	pcrImage     = 0
	pcrPublisher = 8
	pcrTrust     = wire.TrustPCR
)

// What a birth claim says beside key and policy.
const (
	birthVersion = 2
	birthUse     = "kek"
)

// Claim returns the user data of the birth document for the KEK arn with the exact policy
// text: deterministic CBOR of wire.BirthClaim.
func Claim(arn string, policy []byte) ([]byte, error) {
	sum := sha256.Sum256(policy)
	return wire.Marshal(wire.BirthClaim{V: birthVersion, Use: birthUse, KMS: arn, Policy: sum[:]})
}

// ErrBirth is matched by errors of CheckBirth.
var ErrBirth = errors.New("birth document is not acceptable")

// CheckBirth verifies the birth document of the KEK arn with the exact policy text, at
// the document's own time: an enclave that the policy is for attested to key and policy.
// Roots are DER; none means AWS's root alone. Errors match ErrBirth.
func CheckBirth(doc []byte, arn string, policy []byte, roots ...[]byte) error {
	return CheckBirthWith(nil, doc, arn, policy, roots...)
}

// CheckBirthWith is CheckBirth for callers who meet the same birth document again: v
// remembers its certificates. A nil v works and remembers nothing.
func CheckBirthWith(v *chain.Verifier, doc []byte, arn string, policy []byte, roots ...[]byte) error {
	if err := checkBirth(v, doc, arn, policy, roots); err != nil {
		return fmt.Errorf("%w: %w", ErrBirth, err)
	}
	return nil
}

func checkBirth(v *chain.Verifier, doc []byte, arn string, text []byte, roots [][]byte) error {
	partition, _, account, ok := ParseKey(arn)
	if !ok {
		return fmt.Errorf("%q is not the full ARN of a single-Region key", arn)
	}
	p, err := Parse(text)
	if err != nil {
		return err
	}
	if p.Partition != partition || p.AccountID != account {
		return fmt.Errorf("key and role are of different accounts")
	}
	if len(roots) == 0 {
		roots = [][]byte{chain.AWSRoot()}
	}
	accept := policy.Policy{
		Roots: roots, PCRs: map[int][]nitro.PCR{pcrPublisher: p.PCR8, pcrTrust: {p.PCR16}},
		// It was made for whoever reads it later, so nobody's nonce is in it.
		NonceNotChecked: true, TimeFromDocument: true, RequireUserData: true,
	}
	if len(p.PCR0) > 0 {
		accept.PCRs[pcrImage] = p.PCR0
	}
	evidence, err := attest.Verify(v, doc, accept, time.Time{})
	if err != nil {
		return err
	}
	var claim wire.BirthClaim
	if err := wire.Unmarshal(evidence.Document.UserData, wire.MaxUserData, &claim); err != nil {
		return err
	}
	sum := sha256.Sum256(text)
	switch {
	case claim.V != birthVersion || claim.Use != birthUse:
		return fmt.Errorf("it is for another use, %q", claim.Use)
	case claim.KMS != arn:
		return fmt.Errorf("it is for another key, %q", claim.KMS)
	case !bytes.Equal(claim.Policy, sum[:]):
		return fmt.Errorf("it is for another policy")
	case len(evidence.Document.PublicKey) != 0:
		return fmt.Errorf("it holds a public key: it was made for something else")
	}
	return nil
}
