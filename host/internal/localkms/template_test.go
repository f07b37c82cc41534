package localkms

import (
	"os"
	"strings"
	"testing"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/kms"
	"github.com/aws/aws-sdk-go-v2/service/kms/types"

	"github.com/cape-functions/cape/core/attest/nitro"
	"github.com/cape-functions/cape/core/attest/testkit"
)

// kekPolicy is the platform's own policy for the test's enclave.
func kekPolicy(t *testing.T) string {
	t.Helper()
	text, err := os.ReadFile("../../../spec/kek-policy.template.json")
	if err != nil {
		t.Fatal(err)
	}
	out := strings.NewReplacer(
		"${role}", testRole, "${admins}", adminRole,
		"${pcr0}", testkit.PCR(0).String(), "${pcr8}", testkit.PCR(8).String(), "${pcr16}", testkit.PCR(16).String(),
	).Replace(string(text))
	if strings.Contains(out, "${") {
		t.Fatalf("template has a placeholder that this test does not know: %s", out)
	}
	return out
}

// The platform's own policy is enforced as it is meant, statement by statement.
func TestPlatformPolicy(t *testing.T) {
	w := newWorld(t)
	ctx := t.Context()
	text := kekPolicy(t)
	// The role itself makes the key, as an enclave does at the key's birth.
	enclave, admin := w.kms(testRole), w.kms(adminRole)
	_, err := enclave.CreateKey(ctx, &kms.CreateKeyInput{Policy: &text})
	wantCode(t, err, codeMalformedPolicy) // nobody could change it again
	made, err := enclave.CreateKey(ctx, &kms.CreateKeyInput{Policy: &text, BypassPolicyLockoutSafetyCheck: true})
	if err != nil {
		t.Fatal(err)
	}
	key := made.KeyMetadata.Arn
	got, err := enclave.GetKeyPolicy(ctx, &kms.GetKeyPolicyInput{KeyId: key})
	if err != nil || *got.Policy != text {
		t.Errorf("policy of the enclave's view: %v", err)
	}
	grants, err := enclave.ListGrants(ctx, &kms.ListGrantsInput{KeyId: key})
	if err != nil || len(grants.Grants) != 0 || grants.Truncated {
		t.Errorf("grants: %v", err)
	}
	generate := func(c *kms.Client, change ...func(*nitro.Document)) error {
		_, err := c.GenerateDataKey(ctx, &kms.GenerateDataKeyInput{KeyId: key, KeySpec: types.DataKeySpecAes256, Recipient: recipientOf(w.document(change...))})
		return err
	}
	zero := func(i int) func(*nitro.Document) { return func(d *nitro.Document) { d.PCRs[i] = nitro.PCR{} } }
	wantCode(t, generate(enclave), "")
	for _, i := range []int{0, 8, 16} {
		wantCode(t, generate(enclave, zero(i)), codeAccessDenied)
		wantCode(t, generate(enclave, func(d *nitro.Document) { d.PCRs[i] = testkit.PCR(30) }), codeAccessDenied)
		code := codeAccessDenied
		if i == 0 {
			code = codeValidation // no security module leaves it out
		}
		wantCode(t, generate(enclave, func(d *nitro.Document) { delete(d.PCRs, i) }), code)
	}
	wantCode(t, generate(admin), codeAccessDenied)
	_, err = enclave.GenerateDataKey(ctx, &kms.GenerateDataKeyInput{KeyId: key, KeySpec: types.DataKeySpecAes256})
	wantCode(t, err, codeAccessDenied)
	for _, c := range []*kms.Client{enclave, admin, w.kms(rootARN)} {
		_, err := c.Encrypt(ctx, &kms.EncryptInput{KeyId: key, Plaintext: []byte("x")})
		wantCode(t, err, codeAccessDenied)
		_, err = c.PutKeyPolicy(ctx, &kms.PutKeyPolicyInput{KeyId: key, Policy: aws.String(allowAll(rootARN)), BypassPolicyLockoutSafetyCheck: true})
		wantCode(t, err, codeAccessDenied)
	}
	_, err = enclave.ScheduleKeyDeletion(ctx, &kms.ScheduleKeyDeletionInput{KeyId: key})
	wantCode(t, err, codeAccessDenied)
	_, err = admin.ScheduleKeyDeletion(ctx, &kms.ScheduleKeyDeletionInput{KeyId: key})
	wantCode(t, err, "")
}
