package keyring

import (
	"context"
	"fmt"
	"slices"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/kms"
	"github.com/aws/aws-sdk-go-v2/service/kms/types"
	"github.com/aws/aws-sdk-go-v2/service/sts"

	"github.com/cape-functions/cape/core/attest/nitro"
	"github.com/cape-functions/cape/core/keypolicy"
	"github.com/cape-functions/cape/core/wire"
)

// policyName is the only name that a key policy can have.
const policyName = "default"

// Registers that a policy names or that tell about debug mode.
const (
	pcrImage     = 0
	pcrPublisher = 8
	pcrTrust     = wire.TrustPCR
)

// Inspect looks at the credentials and at the KEK, and returns the exact text of the key
// policy when all of spec/kms.md holds. Errors match one of the sentinels of errors.go.
func (k *Keyring) Inspect(ctx context.Context) (policy []byte, err error) {
	defer doing("inspecting the KEK", &err)
	ctx, cancel := bounded(ctx)
	defer cancel()
	for _, step := range []func(context.Context) error{k.checkIdentity, k.checkKey, k.checkGrants} {
		if err := step(ctx); err != nil {
			return nil, err
		}
	}
	return k.checkPolicy(ctx)
}

func (k *Keyring) checkIdentity(ctx context.Context) error {
	out, err := k.sts.GetCallerIdentity(ctx, &sts.GetCallerIdentityInput{})
	if err != nil {
		return classify(err)
	}
	if identity := aws.ToString(out.Arn); !sameRole(identity, k.role) {
		return fmt.Errorf("%w: they are those of %q, the role is %q", ErrIdentity, identity, k.role)
	}
	return nil
}

func (k *Keyring) checkKey(ctx context.Context) error {
	out, err := k.kms.DescribeKey(ctx, &kms.DescribeKeyInput{KeyId: &k.arn})
	if err != nil {
		return classify(err)
	}
	if out.KeyMetadata == nil {
		return fmt.Errorf("%w: no metadata", ErrAnswer)
	}
	return k.checkMetadata(out.KeyMetadata)
}

func (k *Keyring) checkMetadata(m *types.KeyMetadata) error {
	switch {
	case aws.ToString(m.Arn) != k.arn || aws.ToString(m.AWSAccountId) != k.where.account:
		return fmt.Errorf("%w: %q", ErrOtherKey, aws.ToString(m.Arn))
	case m.Origin != types.OriginTypeAwsKms || m.ExpirationModel != "" || m.ValidTo != nil:
		return fmt.Errorf("%w: origin %q", ErrOrigin, m.Origin)
	case m.MultiRegion == nil || *m.MultiRegion || m.MultiRegionConfiguration != nil:
		return ErrMultiRegion
	case m.KeyManager != types.KeyManagerTypeCustomer:
		return fmt.Errorf("%w: its manager is %q", ErrKeyManager, m.KeyManager)
	case m.CustomKeyStoreId != nil || m.CloudHsmClusterId != nil || m.XksKeyConfiguration != nil:
		return ErrCustomKeyStore
	case m.KeySpec != types.KeySpecSymmetricDefault || m.KeyUsage != types.KeyUsageTypeEncryptDecrypt:
		return fmt.Errorf("%w: specification %q, usage %q", ErrKeySpec, m.KeySpec, m.KeyUsage)
	case !m.Enabled || m.KeyState != types.KeyStateEnabled || m.DeletionDate != nil:
		return fmt.Errorf("%w: its state is %q", ErrKeyState, m.KeyState)
	}
	return nil
}

func (k *Keyring) checkGrants(ctx context.Context) error {
	out, err := k.kms.ListGrants(ctx, &kms.ListGrantsInput{KeyId: &k.arn})
	if err != nil {
		return classify(err)
	}
	if len(out.Grants) != 0 || out.Truncated || out.NextMarker != nil {
		return fmt.Errorf("%w: %d", ErrGrants, len(out.Grants))
	}
	return nil
}

func (k *Keyring) checkPolicy(ctx context.Context) ([]byte, error) {
	out, err := k.kms.GetKeyPolicy(ctx, &kms.GetKeyPolicyInput{KeyId: &k.arn, PolicyName: aws.String(policyName)})
	if err != nil {
		return nil, classify(err)
	}
	if out.Policy == nil || out.PolicyName != nil && *out.PolicyName != policyName {
		return nil, fmt.Errorf("%w: no policy, or one of another name", ErrAnswer)
	}
	policy := []byte(*out.Policy)
	p, err := keypolicy.Parse(policy)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrPolicy, err)
	}
	if p.Role != k.role || p.AccountID != k.where.account || p.Partition != k.where.partition {
		return nil, fmt.Errorf("%w: it names %q", ErrPolicyRole, p.Role)
	}
	own, err := k.registers()
	if err != nil {
		return nil, err
	}
	if err := own.admittedBy(p); err != nil {
		return nil, err
	}
	return policy, nil
}

// registers are this enclave's own measurements.
type registers struct{ image, publisher, trust nitro.PCR }

// registers reads them and refuses what no policy may name.
func (k *Keyring) registers() (registers, error) {
	var all [pcrTrust + 1]nitro.PCR
	for _, i := range [...]int{pcrImage, 1, 2, pcrPublisher, pcrTrust} {
		value, locked, err := k.nsm.PCR(i)
		switch {
		case err != nil:
			return registers{}, fmt.Errorf("%w: %w", ErrAttest, err)
		case i <= 2 && value.IsZero():
			return registers{}, fmt.Errorf("%w: PCR%d is all zero", ErrDebug, i)
		case i == pcrPublisher && value.IsZero():
			return registers{}, ErrUnsigned
		case i == pcrTrust && (value.IsZero() || !locked):
			return registers{}, ErrTrustOpen
		}
		all[i] = value
	}
	return registers{all[pcrImage], all[pcrPublisher], all[pcrTrust]}, nil
}

// admittedBy tells whether a policy with these parameters is for this enclave.
func (r registers) admittedBy(p keypolicy.Params) error {
	switch {
	case len(p.PCR0) > 0 && !slices.Contains(p.PCR0, r.image):
		return fmt.Errorf("%w: PCR0 is %s", ErrOtherImage, r.image)
	case !slices.Contains(p.PCR8, r.publisher):
		return fmt.Errorf("%w: PCR8 is %s", ErrOtherPublisher, r.publisher)
	case p.PCR16 != r.trust:
		return fmt.Errorf("%w: PCR16 is %s", ErrOtherTrust, r.trust)
	}
	return nil
}
