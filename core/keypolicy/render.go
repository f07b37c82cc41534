package keypolicy

import (
	"bytes"
	"encoding/json"
	"fmt"
	"slices"
	"strings"

	"github.com/cape-functions/cape/core/attest/nitro"
)

// Names in the policy that Parse looks for.
const (
	sidUse    = "AllowUseByEnclaves"
	sidAdmins = "AllowAdministration"

	keyPCR0  = "kms:RecipientAttestation:PCR0"
	keyPCR8  = "kms:RecipientAttestation:PCR8"
	keyPCR16 = "kms:RecipientAttestation:PCR16"

	opEquals    = "StringEqualsIgnoreCase"
	opNotEquals = "StringNotEqualsIgnoreCase"
)

// The actions, each list sorted. Together the first two are every action that could use
// the key material or change who may.
var (
	// actionsNever cannot be attested, or would open a side door.
	actionsNever = []string{
		"kms:CreateGrant", "kms:DeleteImportedKeyMaterial", "kms:DeriveSharedSecret", "kms:Encrypt",
		"kms:GenerateDataKeyPairWithoutPlaintext", "kms:GenerateDataKeyWithoutPlaintext", "kms:GenerateMac",
		"kms:ImportKeyMaterial", "kms:PutKeyPolicy", "kms:ReEncrypt*", "kms:ReplicateKey", "kms:Sign",
		"kms:SynchronizeMultiRegionKey", "kms:UpdatePrimaryRegion", "kms:Verify", "kms:VerifyMac",
	}
	// actionsUse are those that KMS ties to an attestation document.
	actionsUse = []string{"kms:Decrypt", "kms:GenerateDataKey", "kms:GenerateDataKeyPair"}
	// actionsLook are what the enclave inspects the key with.
	actionsLook = []string{"kms:DescribeKey", "kms:GetKeyPolicy", "kms:ListGrants"}
	// actionsAdmin can take the key away, and never use or open it.
	actionsAdmin = []string{
		"kms:CancelKeyDeletion", "kms:DescribeKey", "kms:DisableKey", "kms:EnableKey", "kms:GetKeyPolicy",
		"kms:GetKeyRotationStatus", "kms:ListGrants", "kms:ListKeyPolicies", "kms:ListResourceTags", "kms:ScheduleKeyDeletion",
	}
)

// values marshals as a string when it is one, as KMS may write it back.
type values []string

func (v values) MarshalJSON() ([]byte, error) {
	if len(v) == 1 {
		return json.Marshal(v[0])
	}
	return json.Marshal([]string(v))
}

type (
	principal  struct{ AWS values }
	conditions map[string]map[string]values // operator to condition key to values
	statement  struct {
		Sid, Effect string
		Principal   principal
		Action      values
		Resource    string
		Condition   conditions `json:",omitempty"`
	}
	document struct {
		Version   string
		Id        string
		Statement []statement
	}
)

// Render returns the policy for p, indented JSON. Errors match ErrParams.
func Render(p Params) ([]byte, error) {
	if err := p.validate(); err != nil {
		return nil, fmt.Errorf("%w: %w", ErrParams, err)
	}
	var out bytes.Buffer
	enc := json.NewEncoder(&out)
	enc.SetIndent("", "  ")
	enc.SetEscapeHTML(false)
	if err := enc.Encode(document{Version: "2012-10-17", Id: "cape-kek-1", Statement: p.statements()}); err != nil {
		return nil, fmt.Errorf("%w: %w", ErrParams, err)
	}
	policy := bytes.TrimRight(out.Bytes(), "\n")
	if len(policy) > MaxSize {
		return nil, fmt.Errorf("%w: it has %d bytes, KMS takes %d", ErrParams, len(policy), MaxSize)
	}
	return policy, nil
}

// statements returns the template. Conditions of one block are ANDed, so each register
// has a Deny of its own; a negated operator holds when the request has no document, and
// for several values when none of them matches.
func (p Params) statements() []statement {
	everybody, role := principal{values{"*"}}, principal{values{p.Role}}
	allowed := map[string]values{keyPCR8: texts(p.PCR8), keyPCR16: {p.PCR16.String()}}
	deny := func(sid string, actions []string, c conditions) statement {
		return statement{sid, "Deny", everybody, actions, "*", c}
	}
	list := []statement{
		deny("DenyWhatCannotBeAttested", actionsNever, nil),
		// A policy that names certificates alone must not open for a genuine image that was
		// started in debug mode, where the host reads the console.
		deny("DenyDebugMode", actionsUse, conditions{opEquals: {keyPCR0: {nitro.PCR{}.String()}}}),
	}
	if len(p.PCR0) > 0 {
		allowed[keyPCR0] = texts(p.PCR0)
		list = append(list, deny("DenyOtherImages", actionsUse, conditions{opNotEquals: {keyPCR0: allowed[keyPCR0]}}))
	}
	list = append(list,
		deny("DenyOtherPublishers", actionsUse, conditions{opNotEquals: {keyPCR8: allowed[keyPCR8]}}),
		deny("DenyOtherTrust", actionsUse, conditions{opNotEquals: {keyPCR16: allowed[keyPCR16]}}),
		statement{sidUse, "Allow", role, actionsUse, "*", conditions{opEquals: allowed}},
		statement{"AllowInspectionByEnclaves", "Allow", role, actionsLook, "*", nil},
	)
	if len(p.Admins) > 0 {
		list = append(list, statement{sidAdmins, "Allow", principal{sorted(p.Admins)}, actionsAdmin, "*", nil})
	}
	return list
}

func sorted(list []string) values { return slices.Sorted(slices.Values(list)) }

func texts(pcrs []nitro.PCR) values {
	out := make(values, len(pcrs))
	for i, v := range pcrs {
		out[i] = v.String()
	}
	slices.Sort(out)
	return out
}

func (p Params) validate() error {
	partition, account, ok := ParseRole(p.Role)
	switch {
	case !ok:
		return fmt.Errorf("%q is not the ARN of a role", p.Role)
	case partition != p.Partition || account != p.AccountID:
		return fmt.Errorf("the role is of account %s in %s, not of %s in %s", account, partition, p.AccountID, p.Partition)
	case len(p.Admins) > MaxAdmins || hasDuplicates(p.Admins):
		return fmt.Errorf("%d administrators: at most %d, each once", len(p.Admins), MaxAdmins)
	case len(p.PCR0) > MaxPCR0 || hasDuplicates(p.PCR0) || slices.ContainsFunc(p.PCR0, nitro.PCR.IsZero):
		return fmt.Errorf("%d values of PCR0: at most %d, each once, none all zero", len(p.PCR0), MaxPCR0)
	case len(p.PCR8) == 0 || len(p.PCR8) > MaxPCR8 || hasDuplicates(p.PCR8) || slices.ContainsFunc(p.PCR8, nitro.PCR.IsZero):
		return fmt.Errorf("%d values of PCR8: 1 to %d, each once, none all zero (unsigned images have that)", len(p.PCR8), MaxPCR8)
	case p.PCR16.IsZero():
		return fmt.Errorf("PCR16 is all zero: no trust was measured")
	}
	prefix := "arn:" + partition + ":iam::" + account + ":"
	for _, a := range p.Admins {
		if len(a) > maxARN || !adminPattern.MatchString(a) || !strings.HasPrefix(a, prefix) {
			return fmt.Errorf("administrator %q is not a role, a user or root of account %s", a, account)
		}
	}
	return nil
}

func hasDuplicates[T comparable](list []T) bool {
	seen := make(map[T]bool, len(list))
	for _, v := range list {
		seen[v] = true
	}
	return len(seen) != len(list)
}
