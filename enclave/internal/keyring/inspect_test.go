package keyring_test

import (
	"errors"
	"maps"
	"net/http"
	"slices"
	"strings"
	"testing"

	"github.com/cape-functions/cape/core/attest/nitro"
	attestkit "github.com/cape-functions/cape/core/attest/testkit"
	"github.com/cape-functions/cape/enclave/internal/keyring"
	"github.com/cape-functions/cape/enclave/internal/nsm"
)

func TestInspect(t *testing.T) {
	next := nitro.Extend(nitro.PCR{}, []byte("next epoch"))
	for _, tc := range []struct {
		name   string
		change func(r *rig)
	}{
		{"policy with PCR8", func(*rig) {}},
		{"policy with two epochs", func(r *rig) { r.params.PCR8 = append(r.params.PCR8, next) }},
		{"policy with PCR0", func(r *rig) { r.params.PCR0 = []nitro.PCR{next, attestkit.PCR(0)} }},
		{"policy with administrators", func(r *rig) { r.params.Admins = []string{"arn:aws:iam::111122223333:root"} }},
		{"identity is the role itself", func(r *rig) { r.kms.Identity = role }},
	} {
		t.Run(tc.name, func(t *testing.T) {
			r := newRig(t)
			tc.change(r)
			want := strings.ReplaceAll(r.policy(t), "\n", "\n ") // the exact text counts, not its form
			r.cfg.KeyARN = r.kms.Add(want)
			got, err := r.keyring(t).Inspect(t.Context())
			if err != nil || string(got) != want {
				t.Errorf("%v, same text: %v", err, string(got) == want)
			}
			var asked []string
			for _, c := range r.kms.Calls() {
				asked = append(asked, c.Operation)
				if id, ok := c.Input["KeyId"]; ok && id != r.cfg.KeyARN {
					t.Errorf("%s about %v", c.Operation, id)
				}
			}
			for _, op := range []string{"GetCallerIdentity", "DescribeKey", "ListGrants", "GetKeyPolicy"} {
				if !slices.Contains(asked, op) {
					t.Errorf("%s was not asked", op)
				}
			}
		})
	}
}

// Each refusal, and that nothing is given out with it.
func TestInspectRefuses(t *testing.T) {
	meta := func(field string, v any) func(*rig) {
		return func(r *rig) {
			m := r.kms.Key(r.cfg.KeyARN).Metadata
			if m[field] = v; v == nil {
				delete(m, field)
			}
		}
	}
	params := func(change func(r *rig)) func(*rig) {
		return func(r *rig) {
			change(r)
			r.kms.Key(r.cfg.KeyARN).Policy = mustRender(r.params)
		}
	}
	answer := func(operation, field string, v any) func(*rig) {
		return func(r *rig) {
			r.kms.Change = func(op string, status int, a map[string]any) (int, map[string]any) {
				if op == operation {
					a = maps.Clone(a)
					if a[field] = v; v == nil {
						delete(a, field)
					}
				}
				return status, a
			}
		}
	}
	other := nitro.Extend(nitro.PCR{}, []byte("other"))
	for _, tc := range []struct {
		name   string
		want   error
		change func(r *rig)
	}{
		{"identity: another role", keyring.ErrIdentity, func(r *rig) { r.kms.Identity = "arn:aws:sts::111122223333:assumed-role/evil/s" }},
		{"identity: a longer name", keyring.ErrIdentity, func(r *rig) { r.kms.Identity = "arn:aws:sts::111122223333:assumed-role/cape2/s" }},
		{"identity: another account", keyring.ErrIdentity, func(r *rig) { r.kms.Identity = "arn:aws:sts::444455556666:assumed-role/cape/s" }},
		{"identity: another partition", keyring.ErrIdentity, func(r *rig) { r.kms.Identity = "arn:aws-cn:sts::111122223333:assumed-role/cape/s" }},
		{"identity: no session", keyring.ErrIdentity, func(r *rig) { r.kms.Identity = "arn:aws:sts::111122223333:assumed-role/cape/" }},
		{"identity: a path in the session", keyring.ErrIdentity, func(r *rig) { r.kms.Identity = "arn:aws:sts::111122223333:assumed-role/cape/evil/s" }},
		{"identity: a user of that name", keyring.ErrIdentity, func(r *rig) { r.kms.Identity = "arn:aws:iam::111122223333:user/service/cape" }},
		{"identity: the role without its path", keyring.ErrIdentity, func(r *rig) { r.kms.Identity = "arn:aws:iam::111122223333:role/cape" }},
		{"identity: none", keyring.ErrIdentity, func(r *rig) { r.kms.Identity = "" }},

		{"metadata: none", keyring.ErrAnswer, answer("DescribeKey", "KeyMetadata", nil)},
		{"metadata: another key", keyring.ErrOtherKey, meta("Arn", "arn:aws:kms:eu-west-1:111122223333:key/00000000-0000-0000-0000-000000000000")},
		{"metadata: no ARN", keyring.ErrOtherKey, meta("Arn", nil)},
		{"metadata: another account", keyring.ErrOtherKey, meta("AWSAccountId", "444455556666")},
		{"origin: imported", keyring.ErrOrigin, meta("Origin", "EXTERNAL")},
		{"origin: external store", keyring.ErrOrigin, meta("Origin", "EXTERNAL_KEY_STORE")},
		{"origin: CloudHSM", keyring.ErrOrigin, meta("Origin", "AWS_CLOUDHSM")},
		{"origin: none", keyring.ErrOrigin, meta("Origin", nil)},
		{"origin: material expires", keyring.ErrOrigin, meta("ExpirationModel", "KEY_MATERIAL_EXPIRES")},
		{"origin: valid to", keyring.ErrOrigin, meta("ValidTo", 2e9)},
		{"multi-Region", keyring.ErrMultiRegion, meta("MultiRegion", true)},
		{"multi-Region: not said", keyring.ErrMultiRegion, meta("MultiRegion", nil)},
		{"multi-Region: configuration", keyring.ErrMultiRegion, meta("MultiRegionConfiguration", map[string]any{"MultiRegionKeyType": "PRIMARY"})},
		{"manager: AWS", keyring.ErrKeyManager, meta("KeyManager", "AWS")},
		{"manager: none", keyring.ErrKeyManager, meta("KeyManager", nil)},
		{"custom key store", keyring.ErrCustomKeyStore, meta("CustomKeyStoreId", "cks-1")},
		{"CloudHSM cluster", keyring.ErrCustomKeyStore, meta("CloudHsmClusterId", "cluster-1")},
		{"external key", keyring.ErrCustomKeyStore, meta("XksKeyConfiguration", map[string]any{"Id": "x"})},
		{"specification: RSA", keyring.ErrKeySpec, meta("KeySpec", "RSA_4096")},
		{"specification: none", keyring.ErrKeySpec, meta("KeySpec", nil)},
		{"usage: signing", keyring.ErrKeySpec, meta("KeyUsage", "SIGN_VERIFY")},
		{"usage: none", keyring.ErrKeySpec, meta("KeyUsage", nil)},
		{"state: not enabled", keyring.ErrKeyState, meta("Enabled", false)},
		{"state: disabled", keyring.ErrKeyState, meta("KeyState", "Disabled")},
		{"state: deletion planned", keyring.ErrKeyState, meta("DeletionDate", 2e9)},
		{"no such key", keyring.ErrNoKey, func(r *rig) {
			r.cfg.KeyARN = "arn:aws:kms:eu-west-1:111122223333:key/00000000-0000-0000-0000-000000000000"
		}},

		{"grants: one", keyring.ErrGrants, func(r *rig) { r.kms.Key(r.cfg.KeyARN).Grants = []any{map[string]any{"GrantId": "g"}} }},
		{"grants: more to come", keyring.ErrGrants, answer("ListGrants", "Truncated", true)},
		{"grants: a marker", keyring.ErrGrants, answer("ListGrants", "NextMarker", "m")},

		{"policy: none", keyring.ErrAnswer, answer("GetKeyPolicy", "Policy", nil)},
		{"policy: another name", keyring.ErrAnswer, answer("GetKeyPolicy", "PolicyName", "other")},
		{"policy: empty", keyring.ErrPolicy, func(r *rig) { r.kms.Key(r.cfg.KeyARN).Policy = "" }},
		{"policy: AWS's default", keyring.ErrPolicy, func(r *rig) {
			r.kms.Key(r.cfg.KeyARN).Policy = `{"Version":"2012-10-17","Statement":[{"Effect":"Allow","Principal":{"AWS":"arn:aws:iam::111122223333:root"},"Action":"kms:*","Resource":"*"}]}`
		}},
		{"policy: a Deny turned", keyring.ErrPolicy, func(r *rig) {
			k := r.kms.Key(r.cfg.KeyARN)
			k.Policy = strings.Replace(k.Policy, `"Deny"`, `"Allow"`, 1)
		}},
		{"policy: another role", keyring.ErrPolicyRole, params(func(r *rig) { r.params.Role = "arn:aws:iam::111122223333:role/evil" })},
		{"policy: another account", keyring.ErrPolicyRole, params(func(r *rig) {
			r.params.AccountID, r.params.Role = "444455556666", "arn:aws:iam::444455556666:role/service/cape"
		})},
		{"policy: another PCR0", keyring.ErrOtherImage, params(func(r *rig) { r.params.PCR0 = []nitro.PCR{other} })},
		{"policy: another PCR8", keyring.ErrOtherPublisher, params(func(r *rig) { r.params.PCR8 = []nitro.PCR{other} })},
		{"policy: another PCR16", keyring.ErrOtherTrust, params(func(r *rig) { r.params.PCR16 = other })},

		{"enclave: unsigned image", keyring.ErrUnsigned, func(r *rig) { r.module.Set(8, nitro.PCR{}) }},
		{"enclave: debug mode, PCR0", keyring.ErrDebug, func(r *rig) { r.module.Set(0, nitro.PCR{}) }},
		{"enclave: debug mode, PCR1", keyring.ErrDebug, func(r *rig) { r.module.Set(1, nitro.PCR{}) }},
		{"enclave: debug mode, PCR2", keyring.ErrDebug, func(r *rig) { r.module.Set(2, nitro.PCR{}) }},
		{"enclave: no trust measured", keyring.ErrTrustOpen, func(r *rig) { r.module.Set(16, nitro.PCR{}) }},
		{"enclave: trust not locked", keyring.ErrTrustOpen, func(r *rig) { r.module.Unlock(16) }},
		{"enclave: module silent", keyring.ErrAttest, func(r *rig) {
			r.module.Answer = func([]byte) ([]byte, error, bool) { return nil, nsm.ErrTransport, true }
		}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			r := newRig(t)
			tc.change(r)
			policy, err := r.keyring(t).Inspect(t.Context())
			if policy != nil || !errors.Is(err, tc.want) {
				t.Errorf("got %d bytes, %v", len(policy), err)
			}
		})
	}
}

// A call that fails makes Inspect fail, whichever it is.
func TestInspectNeedsEveryAnswer(t *testing.T) {
	for _, operation := range []string{"GetCallerIdentity", "DescribeKey", "ListGrants", "GetKeyPolicy"} {
		r := newRig(t)
		r.kms.Change = func(op string, status int, a map[string]any) (int, map[string]any) {
			if op == operation {
				return http.StatusBadRequest, map[string]any{"__type": "AccessDeniedException", "message": "no"}
			}
			return status, a
		}
		if policy, err := r.keyring(t).Inspect(t.Context()); policy != nil || !errors.Is(err, keyring.ErrDenied) {
			t.Errorf("%s: %v", operation, err)
		}
	}
}
