package keypolicy

import (
	"errors"

	"github.com/cape-functions/cape/core/attest/nitro"
	"github.com/cape-functions/cape/core/wire"
)

// Limits of a policy. MaxSize is KMS's own, in bytes; the counts fit into it.
const (
	MaxSize   = wire.MaxPolicy
	MaxAdmins = 16
	MaxPCR0   = 32
	MaxPCR8   = 8
)

var (
	// ErrParams is matched by errors of Render.
	ErrParams = errors.New("key policy cannot be written")
	// ErrPolicy is matched by errors of Parse.
	ErrPolicy = errors.New("key policy is not of the accepted form")
)

// Params is what may differ between two policies. Lists are sets: their order says
// nothing, and Parse returns them sorted.
type Params struct {
	// Partition is "aws", "aws-cn" or "aws-us-gov".
	Partition string
	// AccountID is the account of key and role, 12 digits.
	AccountID string
	// Role is the ARN of the only role that may use the key.
	Role string
	// Admins are the ARNs of roles, users or the account itself ("…:root") that may look
	// at the key, disable it and schedule its deletion; they may be none.
	Admins []string
	// PCR0 are the images that may use the key; empty: PCR8 alone decides.
	PCR0 []nitro.PCR
	// PCR8 are the signing certificates of this epoch and the next; at least one. Zero,
	// the value of every unsigned image, is refused.
	PCR8 []nitro.PCR
	// PCR16 is the measured trust, wire.ExpectedPCR16. Zero, the value of a runtime that
	// measured nothing, is refused.
	PCR16 nitro.PCR
}
