package policy

import (
	"errors"
	"fmt"
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
	// PCRs are the expected measurements: for each index, one of the values.
	PCRs map[int][]nitro.PCR
	// PCRsNotChecked accepts any measurement, for tools that only show a document.
	PCRsNotChecked bool
	// Nonce is the value that the verifier sent.
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

// State is the outcome of one check.
type State int

// The outcomes. The zero value is none of them.
const (
	Held State = iota + 1
	NotChecked
	Failed
)

// String returns "held", "not checked" or "failed".
func (s State) String() string {
	switch s {
	case Held:
		return "held"
	case NotChecked:
		return "not checked"
	case Failed:
		return "failed"
	}
	return "unknown"
}

// MarshalText implements [encoding.TextMarshaler] with the form of String.
func (s State) MarshalText() ([]byte, error) { return []byte(s.String()), nil }

// Check is one line of a report.
type Check struct {
	// Name is a short stable name: "structure", "root", "chain", "validity",
	// "signature", "time", "debug", "pcr0" and so on, "nonce", "public_key", "user_data".
	Name string `json:"name"`
	// State tells how it ended.
	State State `json:"state"`
	// Detail says what was compared, for people.
	Detail string `json:"detail"`
	// Err is the reason when State is Failed.
	Err error `json:"-"`
}
