package keypolicy

import (
	"errors"

	"github.com/cape-functions/cape/core/attest/nitro"
)

var (
	// ErrParams is matched by errors of Render.
	ErrParams = errors.New("key policy cannot be written")
	// ErrPolicy is matched by errors of Parse.
	ErrPolicy = errors.New("key policy is not of the accepted form")
)

// Params is what may differ between two policies.
type Params struct {
	// Partition is "aws", "aws-cn", "aws-us-gov".
	Partition string
	// AccountID is the account of key and role, 12 digits.
	AccountID string
	// Role is the ARN of the only role that may use the key.
	Role string
	// Admins are the ARNs that may look at the key and schedule its deletion.
	Admins []string
	// PCR0 are the images that may use the key; empty: PCR8 alone decides.
	PCR0 []nitro.PCR
	// PCR8 are the signing certificates of this epoch and the next; at least one.
	PCR8 []nitro.PCR
	// PCR16 is the measured trust, wire.ExpectedPCR16.
	PCR16 nitro.PCR
}

// Render returns the policy for p, indented JSON. Errors match ErrParams.
func Render(p Params) ([]byte, error) { return nil, ErrParams }

// Parse returns the parameters of a policy that equals Render of them as parsed JSON,
// and refuses every other. Errors match ErrPolicy.
func Parse(policy []byte) (Params, error) { return Params{}, ErrPolicy }
