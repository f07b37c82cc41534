package keypolicy

import (
	"encoding/json"
	"path"
	"slices"
	"strings"
	"testing"

	"github.com/cape-functions/cape/core/attest/nitro"
)

// request is a call to KMS as a policy sees it; attestation holds condition keys.
type request struct {
	principal, action string
	attestation       map[string]string
}

// decide evaluates the template's subset of IAM's policy language: a Deny that applies
// wins, otherwise an Allow is needed; a negated operator holds when the key is absent.
func decide(t *testing.T, policy []byte, r request) bool {
	t.Helper()
	var doc struct{ Statement []map[string]any }
	if err := json.Unmarshal(policy, &doc); err != nil {
		t.Fatal(err)
	}
	allowed := false
	for _, s := range doc.Statement {
		who := strs(normalise(s["Principal"].(map[string]any)["AWS"]))
		what := strs(normalise(s["Action"]))
		if !slices.Contains(who, r.principal) && !slices.Contains(who, "*") {
			continue
		}
		if !slices.ContainsFunc(what, func(p string) bool { ok, _ := path.Match(p, r.action); return ok }) || !holds(t, s["Condition"], r.attestation) {
			continue
		}
		if s["Effect"] == "Deny" {
			return false
		}
		allowed = true
	}
	return allowed
}

func holds(t *testing.T, condition any, have map[string]string) bool {
	t.Helper()
	operators, _ := condition.(map[string]any)
	for op, keys := range operators {
		for key, want := range keys.(map[string]any) {
			value, present := have[key]
			equal := present && slices.ContainsFunc(strs(normalise(want)), func(w string) bool { return strings.EqualFold(w, value) })
			switch op {
			case opEquals:
				if !equal {
					return false
				}
			case opNotEquals:
				if equal {
					return false
				}
			default:
				t.Fatalf("operator %s", op)
			}
		}
	}
	return true
}

func measured(p0, p8, p16 nitro.PCR) map[string]string {
	return map[string]string{keyPCR0: p0.String(), keyPCR8: p8.String(), keyPCR16: p16.String()}
}

func TestWhoMayDoWhat(t *testing.T) {
	byImage, byPublisher := full(), minimal()
	byPublisher.Admins, byPublisher.PCR8 = byImage.Admins, byImage.PCR8
	role, admin := byImage.Role, byImage.Admins[0]
	byPublisher.Role = role
	good := measured(pcr(1), pcr(81), pcr(16))
	without := func(key string) map[string]string {
		m := measured(pcr(1), pcr(81), pcr(16))
		delete(m, key)
		return m
	}
	tpm := map[string]string{}
	for k, v := range good {
		tpm[strings.Replace(k, ":PCR", ":NitroTPMPCR", 1)] = v
	}
	for _, tc := range []struct {
		name               string
		who                string
		actions            []string
		attestation        map[string]string
		image, byPublisher bool
	}{
		{"the enclave uses", role, actionsUse, good, true, true},
		{"the enclave, the other publisher", role, actionsUse, measured(pcr(2), pcr(80), pcr(16)), true, true},
		{"the enclave inspects", role, actionsLook, nil, true, true},
		{"no document", role, actionsUse, nil, false, false},
		{"document of NitroTPM", role, actionsUse, tpm, false, false},
		{"another image", role, actionsUse, measured(pcr(7), pcr(80), pcr(16)), false, true},
		{"another publisher", role, actionsUse, measured(pcr(1), pcr(82), pcr(16)), false, false},
		{"unsigned image", role, actionsUse, measured(pcr(1), nitro.PCR{}, pcr(16)), false, false},
		{"other trust", role, actionsUse, measured(pcr(1), pcr(80), pcr(17)), false, false},
		{"no trust", role, actionsUse, measured(pcr(1), pcr(80), nitro.PCR{}), false, false},
		{"PCR16 not locked", role, actionsUse, without(keyPCR16), false, false},
		{"PCR8 absent", role, actionsUse, without(keyPCR8), false, false},
		{"debug mode of a signed image", role, actionsUse, measured(nitro.PCR{}, pcr(80), pcr(16)), false, false},
		{"another role with a good document", "arn:aws:iam::111122223333:role/evil", actionsUse, good, false, false},
		{"the account itself", "arn:aws:iam::444455556666:root", slices.Concat(actionsUse, actionsLook, actionsAdmin), good, false, false},
		{"administrators use", admin, actionsUse, good, false, false},
		{"administrators administer", admin, actionsAdmin, nil, true, true},
		{"the enclave never", role, actionsNever, good, false, false},
		{"administrators never", admin, actionsNever, good, false, false},
		{"the enclave re-encrypts", role, []string{"kms:ReEncryptFrom", "kms:ReEncryptTo"}, good, false, false},
		{"the enclave administers", role, []string{"kms:ScheduleKeyDeletion", "kms:DisableKey", "kms:TagResource", "kms:RetireGrant", "kms:EnableKeyRotation"}, good, false, false},
	} {
		for _, action := range tc.actions {
			t.Run(tc.name+" "+action, func(t *testing.T) {
				r := request{tc.who, action, tc.attestation}
				if got := decide(t, render(t, byImage), r); got != tc.image {
					t.Errorf("policy with PCR0: allowed is %v", got)
				}
				if got := decide(t, render(t, byPublisher), r); got != tc.byPublisher {
					t.Errorf("policy without PCR0: allowed is %v", got)
				}
			})
		}
	}
}

// Either half alone, the Deny statements and the conditions of the Allow, must refuse.
func TestEachHalfRefuses(t *testing.T) {
	p := full()
	bad := map[string]map[string]string{
		"no document":   nil,
		"another image": measured(pcr(7), pcr(80), pcr(16)), "another publisher": measured(pcr(1), pcr(82), pcr(16)), "other trust": measured(pcr(1), pcr(80), pcr(17)),
	}
	halves := map[string]func(object, map[string]object){
		"no Deny": func(doc object, _ map[string]object) {
			doc["Statement"] = slices.DeleteFunc(doc["Statement"].([]any), func(s any) bool { return s.(object)["Effect"] == "Deny" })
		},
		"no condition in Allow": func(_ object, sid map[string]object) { delete(sid[sidUse], "Condition") },
	}
	for half, change := range halves {
		for name, attestation := range bad {
			policy := mutate(t, p, change)
			for _, action := range actionsUse {
				if decide(t, policy, request{p.Role, action, attestation}) {
					t.Errorf("%s, %s: %s is allowed", half, name, action)
				}
			}
		}
	}
}
