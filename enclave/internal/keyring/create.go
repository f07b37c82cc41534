package keyring

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/kms"
	"github.com/aws/aws-sdk-go-v2/service/kms/types"

	"github.com/cape-functions/cape/core/attest/nitro"
	"github.com/cape-functions/cape/core/keypolicy"
	"github.com/cape-functions/cape/core/wire"
	"github.com/cape-functions/cape/enclave/internal/nsm"
)

// How long Create waits for a new key to be seen by all of KMS, which is eventually
// consistent: the pauses between the attempts.
var newKeyPauses = [...]time.Duration{0, time.Second, 2 * time.Second, 4 * time.Second, 8 * time.Second}

// Create makes a KEK with its final policy, inspects it, and returns its birth document.
// cfg.KeyARN is empty, cfg.Region says where. PCR16 must have been extended and locked.
// When a key was made and something failed afterwards, the error names the key, which an
// administrator should delete.
func Create(ctx context.Context, cfg Config, req wire.KEKRequest) (birth wire.Birth, err error) {
	defer doing("creating a KEK", &err)
	partition, account, ok := keypolicy.ParseRole(cfg.Role)
	if !ok || cfg.KeyARN != "" || !regionPattern.MatchString(cfg.Region) {
		return birth, fmt.Errorf("%w: a role and a Region are needed, and no key", ErrConfig)
	}
	k, err := newKeyring(cfg, place{partition, cfg.Region, account})
	if err != nil {
		return birth, err
	}
	policy, err := k.finalPolicy(req)
	if err == nil {
		err = k.create(ctx, policy)
	}
	if err != nil {
		return birth, err
	}
	if birth, err = k.birth(ctx); err != nil {
		err = fmt.Errorf("%s was made and should be deleted: %w", k.arn, err)
	}
	return birth, err
}

// finalPolicy renders the policy for req and this enclave's own trust, and refuses one
// that this enclave could not use itself.
func (k *Keyring) finalPolicy(req wire.KEKRequest) ([]byte, error) {
	own, err := k.registers()
	if err != nil {
		return nil, err
	}
	p := keypolicy.Params{
		Partition: k.where.partition, AccountID: k.where.account, Role: k.role, Admins: req.Admins, PCR16: own.trust,
	}
	if p.PCR0, err = pcrs(req.PCR0); err != nil {
		return nil, err
	}
	if p.PCR8, err = pcrs(req.PCR8); err != nil {
		return nil, err
	}
	policy, err := keypolicy.Render(p)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrConfig, err)
	}
	return policy, own.admittedBy(p)
}

func pcrs(list [][]byte) ([]nitro.PCR, error) {
	var out []nitro.PCR
	for _, b := range list {
		if len(b) != nitro.PCRSize {
			return nil, fmt.Errorf("%w: a PCR of %d bytes, it has %d", ErrConfig, len(b), nitro.PCRSize)
		}
		out = append(out, nitro.PCR(b))
	}
	return out, nil
}

// create calls CreateKey, once: a repeated call would make a second key.
func (k *Keyring) create(ctx context.Context, policy []byte) error {
	ctx, cancel := bounded(ctx)
	defer cancel()
	if err := k.checkIdentity(ctx); err != nil {
		return err
	}
	out, err := k.kms.CreateKey(ctx, &kms.CreateKeyInput{
		Policy: aws.String(string(policy)),
		// The policy lets nobody change it: that is the point, and what the check is against.
		BypassPolicyLockoutSafetyCheck: true,
		Description:                    aws.String("Cape KEK: wraps stored functions and keys for attested enclaves"),
		KeySpec:                        types.KeySpecSymmetricDefault,
		KeyUsage:                       types.KeyUsageTypeEncryptDecrypt,
		Origin:                         types.OriginTypeAwsKms,
		MultiRegion:                    aws.Bool(false),
		Tags:                           []types.Tag{{TagKey: aws.String("cape:use"), TagValue: aws.String("kek")}},
	}, func(o *kms.Options) { o.Retryer = aws.NopRetryer{} })
	if err != nil {
		return classify(err)
	}
	if out.KeyMetadata == nil {
		return fmt.Errorf("%w: no metadata", ErrAnswer)
	}
	arn := aws.ToString(out.KeyMetadata.Arn)
	if where, err := parseKey(arn); err != nil || where != k.where {
		return fmt.Errorf("%w: a key %q was made instead of one in %s of account %s", ErrOtherKey, arn, k.where.region, k.where.account)
	}
	k.arn = arn
	return nil
}

// birth inspects the new key and attests to it.
func (k *Keyring) birth(ctx context.Context) (wire.Birth, error) {
	policy, err := k.inspectNew(ctx)
	if err != nil {
		return wire.Birth{}, err
	}
	claim, err := keypolicy.Claim(k.arn, policy)
	if err != nil {
		return wire.Birth{}, fmt.Errorf("%w: %w", ErrAttest, err)
	}
	doc, err := k.nsm.Attest(nsm.Request{UserData: claim})
	if err != nil {
		return wire.Birth{}, fmt.Errorf("%w: %w", ErrAttest, err)
	}
	return wire.Birth{KMS: k.arn, Policy: policy, Document: doc}, nil
}

func (k *Keyring) inspectNew(ctx context.Context) (policy []byte, err error) {
	for _, pause := range newKeyPauses {
		select {
		case <-ctx.Done():
			return nil, fmt.Errorf("%w: %w", ErrUnavailable, ctx.Err())
		case <-time.After(pause):
		}
		if policy, err = k.Inspect(ctx); !errors.Is(err, ErrNoKey) {
			break
		}
	}
	return policy, err
}
