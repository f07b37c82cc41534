package policy

import (
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/cape-functions/cape/core/attest/chain"
	"github.com/cape-functions/cape/core/attest/nitro"
)

const (
	// DefaultMaxAge is how old a document may be when Policy.MaxAge is zero.
	DefaultMaxAge = time.Hour
	// MaxSkew is how far a document's clock may be ahead of the verifier's.
	MaxSkew = 5 * time.Minute
	// MinNonce is the shortest nonce in bytes that proves freshness of a live document.
	MinNonce = 16
)

var (
	// ErrPolicy: the policy itself cannot be used: empty, contradictory or out of range.
	ErrPolicy = errors.New("unusable attestation policy")
	// ErrEmptyPolicy: the policy leaves open what it must say. It also matches ErrPolicy.
	ErrEmptyPolicy = fmt.Errorf("%w: it leaves open what must be said", ErrPolicy)
	// ErrTime: the document is too old or from the future. It is chain.ErrTime, so that
	// callers test for one error.
	ErrTime = chain.ErrTime
	// ErrDebug: the enclave runs in debug mode: PCR0, PCR1 or PCR2 is all zero.
	ErrDebug = errors.New("enclave is in debug mode")
	// ErrPCR: a measurement is missing or not among the expected ones.
	ErrPCR = errors.New("enclave measurement does not match")
	// ErrNonce: the nonce is missing or not the expected one.
	ErrNonce = errors.New("nonce does not match")
	// ErrField: a field that the policy requires is absent or empty.
	ErrField = errors.New("required field is missing")
)

// Policy is what a verifier accepts. The zero value accepts nothing.
type Policy struct {
	// Roots are the acceptable root certificates, DER.
	Roots [][]byte
	// PCRs are the expected measurements: for each index, one of the values. PCR0 or PCR8
	// must be among them, and a PCR8 that stands alone must not be zero.
	PCRs map[int][]nitro.PCR
	// PCRsNotChecked accepts any measurement, for tools that only show a document.
	PCRsNotChecked bool
	// Nonce is the value that the verifier sent, MinNonce bytes or more. Archived documents
	// (TimeFromDocument) may have a shorter one.
	Nonce []byte
	// NonceNotChecked accepts any nonce or none, for documents read from a file.
	NonceNotChecked bool
	// AllowDebug accepts enclaves in debug mode, whose memory the host can read.
	AllowDebug bool
	// MaxAge bounds the age of the document; zero means DefaultMaxAge.
	MaxAge time.Duration
	// TimeFromDocument checks certificates at the document's own time and leaves its age
	// unchecked, for archived documents whose time is vouched for otherwise.
	TimeFromDocument bool
	// RequirePublicKey and RequireUserData refuse documents without the field.
	RequirePublicKey, RequireUserData bool
}

// imagePCRs is the number of registers from 0 that measure the image: all of it, kernel
// and boot, application.
const imagePCRs = 3

// pcrPublisher is the register of the certificate that signed the image.
const pcrPublisher = 8

// Validate tells whether the policy can be used: everything is either given or left out
// by name, and never both. Errors match ErrPolicy.
func (p Policy) Validate() error {
	if len(p.Roots) == 0 {
		return fmt.Errorf("%w: no root certificate", ErrEmptyPolicy)
	}
	for _, root := range p.Roots {
		if len(root) == 0 {
			return fmt.Errorf("%w: an empty root certificate", ErrPolicy)
		}
	}
	if err := p.validatePCRs(); err != nil {
		return err
	}
	if err := p.validateNonce(); err != nil {
		return err
	}
	if p.MaxAge < 0 || p.TimeFromDocument && p.MaxAge != 0 {
		return fmt.Errorf("%w: negative age, or an age together with TimeFromDocument", ErrPolicy)
	}
	return nil
}

func (p Policy) validatePCRs() error {
	if p.PCRsNotChecked {
		if len(p.PCRs) > 0 {
			return fmt.Errorf("%w: measurements together with PCRsNotChecked", ErrPolicy)
		}
		return nil
	}
	if len(p.PCRs) == 0 {
		return fmt.Errorf("%w: no expected measurements", ErrEmptyPolicy)
	}
	for i, values := range p.PCRs {
		if i < 0 || i >= nitro.MaxPCRs {
			return fmt.Errorf("%w: PCR%d does not exist", ErrPolicy, i)
		}
		if len(values) == 0 {
			return fmt.Errorf("%w: no value for PCR%d", ErrEmptyPolicy, i)
		}
	}
	// The other registers alone, the kernel's for example, would let any code pass, and so
	// would a publisher of zero: it stands in every unsigned image.
	publisher := p.PCRs[pcrPublisher]
	if len(p.PCRs[0]) == 0 && (len(publisher) == 0 || slices.ContainsFunc(publisher, nitro.PCR.IsZero)) {
		return fmt.Errorf("%w: neither PCR0 (the image) nor PCR8 (its publisher)", ErrEmptyPolicy)
	}
	return nil
}

func (p Policy) validateNonce() error {
	n := len(p.Nonce)
	switch {
	case p.NonceNotChecked && n > 0:
		return fmt.Errorf("%w: a nonce together with NonceNotChecked", ErrPolicy)
	case p.NonceNotChecked:
		return nil
	case n == 0:
		return fmt.Errorf("%w: no nonce", ErrEmptyPolicy)
	case n > nitro.MaxNonce:
		return fmt.Errorf("%w: nonce of %d bytes, at most %d are allowed", ErrPolicy, n, nitro.MaxNonce)
	case n < MinNonce && !p.TimeFromDocument:
		return fmt.Errorf("%w: nonce of %d bytes, a fresh one has at least %d", ErrPolicy, n, MinNonce)
	}
	return nil
}
