package localkms

import (
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/x509"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/kms"
	"github.com/aws/aws-sdk-go-v2/service/kms/types"
)

func TestPolicies(t *testing.T) {
	w := newWorld(t)
	c, ctx := w.kms(adminRole), t.Context()
	key := w.newKey("")
	names, err := c.ListKeyPolicies(ctx, &kms.ListKeyPoliciesInput{KeyId: &key})
	if err != nil || !slices.Equal(names.PolicyNames, []string{"default"}) {
		t.Errorf("names: %v, %v", names, err)
	}
	// The exact text comes back, white space and all.
	text := "{ \"Version\": \"2012-10-17\",\n \"Statement\": " + allow(rootARN, "kms:*") + " }"
	if _, err := c.PutKeyPolicy(ctx, &kms.PutKeyPolicyInput{KeyId: &key, Policy: &text, PolicyName: aws.String("default")}); err != nil {
		t.Fatal(err)
	}
	out, err := c.GetKeyPolicy(ctx, &kms.GetKeyPolicyInput{KeyId: &key})
	if err != nil || *out.Policy != text {
		t.Errorf("got %v", err)
	}
	for _, tc := range []struct{ name, policy, code string }{
		{"locks out", allowAll(testRole), "MalformedPolicyDocumentException"},
		{"no JSON", "x", "MalformedPolicyDocumentException"},
		{"Deny that cannot be enforced", policyOf(allow(rootARN, "kms:*"), `{"Effect":"Deny","Principal":"*","Action":"kms:Decrypt","Resource":"*","Condition":{"NumericLessThan":{"kms:KeySpec":"1"}}}`), "MalformedPolicyDocumentException"},
	} {
		_, err := c.PutKeyPolicy(ctx, &kms.PutKeyPolicyInput{KeyId: &key, Policy: &tc.policy})
		wantCode(t, err, tc.code)
	}
	_, err = c.GetKeyPolicy(ctx, &kms.GetKeyPolicyInput{KeyId: &key, PolicyName: aws.String("other")})
	wantCode(t, err, "NotFoundException")
	// Who is not named has nothing, and a role is matched by its own ARN.
	if _, err := c.PutKeyPolicy(ctx, &kms.PutKeyPolicyInput{KeyId: &key, Policy: aws.String(allowAll(testRole)), BypassPolicyLockoutSafetyCheck: true}); err != nil {
		t.Fatal(err)
	}
	_, err = c.GetKeyPolicy(ctx, &kms.GetKeyPolicyInput{KeyId: &key})
	wantCode(t, err, "AccessDeniedException")
	_, err = w.kms(testRole).GetKeyPolicy(ctx, &kms.GetKeyPolicyInput{KeyId: &key})
	wantCode(t, err, "")
}

func TestConditionsOfRequests(t *testing.T) {
	w := newWorld(t)
	ctx := t.Context()
	deny := func(action, condition string) string {
		return fmt.Sprintf(`{"Effect":"Deny","Principal":"*","Action":%q,"Resource":"*","Condition":%s}`, action, condition)
	}
	key := w.newKey(policyOf(allow(rootARN, "kms:*"),
		deny("kms:Encrypt", `{"StringNotEquals":{"kms:EncryptionContext:purpose":"test"}}`),
		deny("kms:Encrypt", `{"ForAnyValue:StringNotEquals":{"kms:EncryptionContextKeys":["purpose","extra"]}}`),
		deny("kms:GenerateDataKeyPair", `{"StringNotEquals":{"kms:DataKeyPairSpec":"ECC_NIST_P256"}}`),
		deny("kms:ScheduleKeyDeletion", `{"StringNotEquals":{"kms:ScheduleKeyDeletionPendingWindowInDays":"30"}}`),
		deny("kms:DescribeKey", `{"StringEquals":{"kms:RequestAlias":"alias/secret"}}`),
		deny("kms:GetKeyPolicy", `{"ArnNotLike":{"aws:PrincipalArn":"arn:aws:iam::*:role/admin"}}`),
		deny("kms:ListGrants", `{"Bool":{"aws:SecureTransport":"true"}}`),
		deny("kms:TagResource", `{"StringNotEquals":{"aws:RequestTag/team":"a"}}`),
		deny("kms:UntagResource", `{"StringEquals":{"aws:ResourceTag/team":"a"}}`),
		deny("kms:CreateGrant", `{"ForAnyValue:StringEquals":{"kms:GrantOperations":"Decrypt"}}`),
		deny("kms:ReEncryptTo", `{"Bool":{"kms:ReEncryptOnSameKey":"false"}}`),
		deny("kms:PutKeyPolicy", `{"Bool":{"kms:BypassPolicyLockoutSafetyCheck":"true"}}`),
		deny("kms:UpdateKeyDescription", `{"StringEquals":{"kms:KeyOrigin":"AWS_KMS","kms:KeySpec":"SYMMETRIC_DEFAULT","kms:KeyUsage":"ENCRYPT_DECRYPT","kms:CallerAccount":"`+testAccount+`"},"Bool":{"kms:MultiRegion":"false"}}`),
	))
	c, other := w.kms(adminRole), w.newKey("")
	for _, name := range []string{"alias/open", "alias/secret"} {
		if _, err := c.CreateAlias(ctx, &kms.CreateAliasInput{AliasName: &name, TargetKeyId: &key}); err != nil {
			t.Fatal(err)
		}
	}
	encrypt := func(context map[string]string) error {
		_, err := c.Encrypt(ctx, &kms.EncryptInput{KeyId: &key, Plaintext: []byte("x"), EncryptionContext: context})
		return err
	}
	blob, err := c.Encrypt(ctx, &kms.EncryptInput{KeyId: &other, Plaintext: []byte("x")})
	if err != nil {
		t.Fatal(err)
	}
	for _, tc := range []struct {
		name string
		err  error
		code string
	}{
		{"context as wanted", encrypt(map[string]string{"purpose": "test"}), ""},
		{"extra name that is listed", encrypt(map[string]string{"purpose": "test", "extra": "y"}), ""},
		{"extra name that is not", encrypt(map[string]string{"purpose": "test", "more": "y"}), codeAccessDenied},
		{"no context", encrypt(nil), codeAccessDenied},
		{"other value", encrypt(map[string]string{"purpose": "Test"}), codeAccessDenied},
		{"pair spec allowed", second(c.GenerateDataKeyPair(ctx, &kms.GenerateDataKeyPairInput{KeyId: &key, KeyPairSpec: "ECC_NIST_P256"})), ""},
		{"pair spec denied", second(c.GenerateDataKeyPair(ctx, &kms.GenerateDataKeyPairInput{KeyId: &key, KeyPairSpec: "ECC_NIST_P384"})), codeAccessDenied},
		{"by open alias", second(c.DescribeKey(ctx, &kms.DescribeKeyInput{KeyId: aws.String("alias/open")})), ""},
		{"by alias ARN", second(c.DescribeKey(ctx, &kms.DescribeKeyInput{KeyId: aws.String("arn:aws:kms:" + testRegion + ":" + testAccount + ":alias/open")})), ""},
		{"by secret alias", second(c.DescribeKey(ctx, &kms.DescribeKeyInput{KeyId: aws.String("alias/secret")})), codeAccessDenied},
		{"principal as wanted", second(c.GetKeyPolicy(ctx, &kms.GetKeyPolicyInput{KeyId: &key})), ""},
		{"other principal", second(w.kms(testRole).GetKeyPolicy(ctx, &kms.GetKeyPolicyInput{KeyId: &key})), codeAccessDenied},
		{"over TLS", second(c.ListGrants(ctx, &kms.ListGrantsInput{KeyId: &key})), codeAccessDenied},
		{"other tag", second(c.TagResource(ctx, &kms.TagResourceInput{KeyId: &key, Tags: []types.Tag{{TagKey: aws.String("team"), TagValue: aws.String("b")}}})), codeAccessDenied},
		{"tag", second(c.TagResource(ctx, &kms.TagResourceInput{KeyId: &key, Tags: []types.Tag{{TagKey: aws.String("team"), TagValue: aws.String("a")}}})), ""},
		{"untag what is tagged", second(c.UntagResource(ctx, &kms.UntagResourceInput{KeyId: &key, TagKeys: []string{"team"}})), codeAccessDenied},
		{"grant of Decrypt", second(c.CreateGrant(ctx, &kms.CreateGrantInput{KeyId: &key, GranteePrincipal: aws.String(testRole), Operations: []types.GrantOperation{"DescribeKey", "Decrypt"}})), codeAccessDenied},
		{"grant of DescribeKey", second(c.CreateGrant(ctx, &kms.CreateGrantInput{KeyId: &key, GranteePrincipal: aws.String(testRole), Operations: []types.GrantOperation{"DescribeKey"}})), ""},
		{"ReEncrypt from elsewhere", second(c.ReEncrypt(ctx, &kms.ReEncryptInput{CiphertextBlob: blob.CiphertextBlob, DestinationKeyId: &key})), codeAccessDenied},
		{"put with bypass", second(c.PutKeyPolicy(ctx, &kms.PutKeyPolicyInput{KeyId: &key, Policy: aws.String(allowAll(rootARN)), BypassPolicyLockoutSafetyCheck: true})), codeAccessDenied},
		{"key's properties", second(c.UpdateKeyDescription(ctx, &kms.UpdateKeyDescriptionInput{KeyId: &key, Description: aws.String("x")})), codeAccessDenied},
		{"deletion after 7 days", second(c.ScheduleKeyDeletion(ctx, &kms.ScheduleKeyDeletionInput{KeyId: &key, PendingWindowInDays: aws.Int32(7)})), codeAccessDenied},
		{"deletion after 30 days", second(c.ScheduleKeyDeletion(ctx, &kms.ScheduleKeyDeletionInput{KeyId: &key})), ""},
	} {
		t.Run(tc.name, func(t *testing.T) { wantCode(t, tc.err, tc.code) })
	}
}

// second drops a result of which only the error matters.
func second[T any](_ T, err error) error { return err }

func TestKeyStates(t *testing.T) {
	w := newWorld(t)
	c, ctx := w.kms(adminRole), t.Context()
	key := w.newKey("")
	encrypt := func() error {
		return second(c.Encrypt(ctx, &kms.EncryptInput{KeyId: &key, Plaintext: []byte("x")}))
	}
	step := func(name string, err error, code string) {
		t.Helper()
		t.Run(name, func(t *testing.T) { t.Helper(); wantCode(t, err, code) })
	}
	step("disable", second(c.DisableKey(ctx, &kms.DisableKeyInput{KeyId: &key})), "")
	step("encrypt when disabled", encrypt(), codeDisabled)
	step("cancel what is not scheduled", second(c.CancelKeyDeletion(ctx, &kms.CancelKeyDeletionInput{KeyId: &key})), codeDisabled)
	step("enable", second(c.EnableKey(ctx, &kms.EnableKeyInput{KeyId: &key})), "")
	step("encrypt when enabled", encrypt(), "")
	step("window of 6 days", second(c.ScheduleKeyDeletion(ctx, &kms.ScheduleKeyDeletionInput{KeyId: &key, PendingWindowInDays: aws.Int32(6)})), codeValidation)
	out, err := c.ScheduleKeyDeletion(ctx, &kms.ScheduleKeyDeletionInput{KeyId: &key, PendingWindowInDays: aws.Int32(7)})
	step("schedule", err, "")
	if d := time.Until(*out.DeletionDate); d < 7*24*time.Hour-time.Minute || d > 7*24*time.Hour || *out.PendingWindowInDays != 7 {
		t.Errorf("deletion in %v", d)
	}
	step("encrypt when pending", encrypt(), codeInvalidState)
	step("enable when pending", second(c.EnableKey(ctx, &kms.EnableKeyInput{KeyId: &key})), codeInvalidState)
	step("schedule twice", second(c.ScheduleKeyDeletion(ctx, &kms.ScheduleKeyDeletionInput{KeyId: &key})), codeInvalidState)
	step("alias when pending", second(c.CreateAlias(ctx, &kms.CreateAliasInput{AliasName: aws.String("alias/a"), TargetKeyId: &key})), codeInvalidState)
	step("cancel", second(c.CancelKeyDeletion(ctx, &kms.CancelKeyDeletionInput{KeyId: &key})), "")
	step("still disabled", encrypt(), codeDisabled)
	d, err := c.DescribeKey(ctx, &kms.DescribeKeyInput{KeyId: &key})
	if err != nil || d.KeyMetadata.KeyState != types.KeyStateDisabled || d.KeyMetadata.Enabled || d.KeyMetadata.DeletionDate != nil {
		t.Errorf("after cancelling: %+v, %v", d, err)
	}
}

func TestDeletionHappens(t *testing.T) {
	w := newWorld(t)
	c, ctx := w.kms(adminRole), t.Context()
	key, kept := w.newKey(""), w.newKey("")
	for name, target := range map[string]string{"alias/gone": key, "alias/kept": kept} {
		if _, err := c.CreateAlias(ctx, &kms.CreateAliasInput{AliasName: &name, TargetKeyId: &target}); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := c.ScheduleKeyDeletion(ctx, &kms.ScheduleKeyDeletionInput{KeyId: &key, PendingWindowInDays: aws.Int32(7)}); err != nil {
		t.Fatal(err)
	}
	id := key[strings.LastIndex(key, "/")+1:]
	w.shift.Store(int64(7*24*time.Hour - time.Minute))
	if _, _, err := w.server.lookup(id, false); err != nil {
		t.Errorf("gone too early: %v", err)
	}
	w.shift.Store(int64(7*24*time.Hour + time.Minute))
	for ref, want := range map[string]string{id: codeNotFound, "alias/gone": codeNotFound, "alias/kept": ""} {
		_, _, err := w.server.lookup(ref, true)
		if got := codeOf(err); got != want {
			t.Errorf("%s: %q, want %q", ref, got, want)
		}
	}
	if names, err := w.server.store.List(keyRecord); err != nil || len(names) != 1 {
		t.Errorf("records: %v, %v", names, err)
	}
}

func codeOf(err error) string {
	if err == nil {
		return ""
	}
	return asAPIError(err).code
}

func TestAliases(t *testing.T) {
	w := newWorld(t)
	c, ctx := w.kms(adminRole), t.Context()
	a, b := w.newKey(""), w.newKey("")
	closed := w.newKey(allowAll(testRole))
	create := func(name, key string) error {
		return second(c.CreateAlias(ctx, &kms.CreateAliasInput{AliasName: &name, TargetKeyId: &key}))
	}
	update := func(name, key string) error {
		return second(c.UpdateAlias(ctx, &kms.UpdateAliasInput{AliasName: &name, TargetKeyId: &key}))
	}
	remove := func(name string) error {
		return second(c.DeleteAlias(ctx, &kms.DeleteAliasInput{AliasName: &name}))
	}
	wantCode(t, create("alias/one", a), "")
	wantCode(t, create("alias/two", a), "")
	wantCode(t, create("alias/one", b), codeAlreadyExists)
	wantCode(t, create("one", a), codeInvalidAlias)
	wantCode(t, create("alias/aws/one", a), codeInvalidAlias)
	wantCode(t, create("alias/", a), codeInvalidAlias)
	wantCode(t, create("alias/a b", a), codeInvalidAlias)
	wantCode(t, create("alias/three", "alias/one"), codeInvalidArn)
	wantCode(t, create("alias/three", closed), codeAccessDenied)
	enc, err := c.Encrypt(ctx, &kms.EncryptInput{KeyId: aws.String("alias/one"), Plaintext: []byte("x")})
	if err != nil || *enc.KeyId != a {
		t.Fatalf("by alias: %v", err)
	}
	wantCode(t, update("alias/one", closed), codeAccessDenied)
	wantCode(t, update("alias/one", b), "")
	_, err = c.Decrypt(ctx, &kms.DecryptInput{KeyId: aws.String("alias/one"), CiphertextBlob: enc.CiphertextBlob})
	wantCode(t, err, codeIncorrectKey)
	wantCode(t, update("alias/none", b), codeNotFound)
	list, err := c.ListAliases(ctx, &kms.ListAliasesInput{})
	if err != nil || len(list.Aliases) != 2 || *list.Aliases[0].AliasName != "alias/one" || !strings.HasSuffix(b, *list.Aliases[0].TargetKeyId) {
		t.Errorf("list: %+v, %v", list, err)
	}
	list, err = c.ListAliases(ctx, &kms.ListAliasesInput{KeyId: &a})
	if err != nil || len(list.Aliases) != 1 || *list.Aliases[0].AliasName != "alias/two" {
		t.Errorf("list of one key: %+v, %v", list, err)
	}
	// Operations that change a key take no alias.
	_, err = c.DisableKey(ctx, &kms.DisableKeyInput{KeyId: aws.String("alias/one")})
	wantCode(t, err, codeInvalidArn)
	wantCode(t, remove("alias/one"), "")
	wantCode(t, remove("alias/one"), codeNotFound)
}

func TestGrants(t *testing.T) {
	w := newWorld(t)
	admin, user, ctx := w.kms(adminRole), w.kms(testRole), t.Context()
	key := w.newKey(allowAll(adminRole))
	context := map[string]string{"a": "1", "b": "2"}
	enc, err := admin.Encrypt(ctx, &kms.EncryptInput{KeyId: &key, Plaintext: []byte("x"), EncryptionContext: context})
	if err != nil {
		t.Fatal(err)
	}
	decrypt := func() error {
		return second(user.Decrypt(ctx, &kms.DecryptInput{CiphertextBlob: enc.CiphertextBlob, EncryptionContext: context}))
	}
	grant := func(constraints *types.GrantConstraints, operations ...types.GrantOperation) *kms.CreateGrantOutput {
		t.Helper()
		out, err := admin.CreateGrant(ctx, &kms.CreateGrantInput{KeyId: &key, GranteePrincipal: aws.String(testRole), Operations: operations, Constraints: constraints, Name: aws.String("g"), RetiringPrincipal: aws.String(testRole)})
		if err != nil {
			t.Fatal(err)
		}
		return out
	}
	revoke := func(g *kms.CreateGrantOutput) {
		t.Helper()
		_, err := admin.RevokeGrant(ctx, &kms.RevokeGrantInput{KeyId: &key, GrantId: g.GrantId})
		wantCode(t, err, "")
	}
	wantCode(t, decrypt(), codeAccessDenied)
	for _, tc := range []struct {
		name       string
		c          *types.GrantConstraints
		operations []types.GrantOperation
		code       string
	}{
		{"plain", nil, []types.GrantOperation{"Decrypt"}, ""},
		{"other operation", nil, []types.GrantOperation{"Encrypt"}, codeAccessDenied},
		{"equal context", &types.GrantConstraints{EncryptionContextEquals: context}, []types.GrantOperation{"Decrypt"}, ""},
		{"not equal", &types.GrantConstraints{EncryptionContextEquals: map[string]string{"a": "1"}}, []types.GrantOperation{"Decrypt"}, codeAccessDenied},
		{"subset", &types.GrantConstraints{EncryptionContextSubset: map[string]string{"a": "1"}}, []types.GrantOperation{"Decrypt"}, ""},
		{"no subset", &types.GrantConstraints{EncryptionContextSubset: map[string]string{"a": "2"}}, []types.GrantOperation{"Decrypt"}, codeAccessDenied},
		{"other case", &types.GrantConstraints{EncryptionContextSubset: map[string]string{"A": "1"}}, []types.GrantOperation{"Decrypt"}, codeAccessDenied},
	} {
		t.Run(tc.name, func(t *testing.T) {
			g := grant(tc.c, tc.operations...)
			if again := grant(tc.c, tc.operations...); *again.GrantId != *g.GrantId {
				t.Error("the same grant was made twice")
			}
			wantCode(t, decrypt(), tc.code)
			revoke(g)
			wantCode(t, decrypt(), codeAccessDenied)
		})
	}
	g := grant(nil, "Decrypt", "DescribeKey")
	list, err := admin.ListGrants(ctx, &kms.ListGrantsInput{KeyId: &key})
	if err != nil || len(list.Grants) != 1 || *list.Grants[0].GranteePrincipal != testRole || len(list.Grants[0].Operations) != 2 {
		t.Errorf("list: %+v, %v", list, err)
	}
	_, err = w.kms("arn:aws:iam::111122223333:role/third").RetireGrant(ctx, &kms.RetireGrantInput{GrantToken: g.GrantToken})
	wantCode(t, err, codeAccessDenied)
	_, err = user.RetireGrant(ctx, &kms.RetireGrantInput{GrantToken: g.GrantToken})
	wantCode(t, err, "")
	_, err = user.RetireGrant(ctx, &kms.RetireGrantInput{GrantToken: g.GrantToken})
	wantCode(t, err, "InvalidGrantTokenException")
	_, err = admin.RevokeGrant(ctx, &kms.RevokeGrantInput{KeyId: &key, GrantId: g.GrantId})
	wantCode(t, err, codeInvalidGrantID)
	for name, in := range map[string]kms.CreateGrantInput{
		codeInvalidArn: {GranteePrincipal: aws.String("x"), Operations: []types.GrantOperation{"Decrypt"}},
		codeValidation: {GranteePrincipal: aws.String(testRole), Operations: []types.GrantOperation{"PutKeyPolicy"}},
	} {
		in.KeyId = &key
		_, err = admin.CreateGrant(ctx, &in)
		wantCode(t, err, name)
	}
	// A Deny in the policy is stronger than a grant.
	denied := w.newKey(policyOf(allow(adminRole, "kms:*"), `{"Effect":"Deny","Principal":"*","Action":"kms:Decrypt","Resource":"*"}`))
	if _, err := admin.CreateGrant(ctx, &kms.CreateGrantInput{KeyId: &denied, GranteePrincipal: aws.String(testRole), Operations: []types.GrantOperation{"Decrypt"}}); err != nil {
		t.Fatal(err)
	}
	blob, err := admin.Encrypt(ctx, &kms.EncryptInput{KeyId: &denied, Plaintext: []byte("x")})
	if err != nil {
		t.Fatal(err)
	}
	_, err = user.Decrypt(ctx, &kms.DecryptInput{CiphertextBlob: blob.CiphertextBlob})
	wantCode(t, err, codeAccessDenied)
}

func TestTags(t *testing.T) {
	w := newWorld(t)
	c, ctx := w.kms(adminRole), t.Context()
	key := w.newKey("")
	tags := func(pairs ...string) []types.Tag {
		var out []types.Tag
		for i := 0; i < len(pairs); i += 2 {
			out = append(out, types.Tag{TagKey: &pairs[i], TagValue: &pairs[i+1]})
		}
		return out
	}
	put := func(pairs ...string) error {
		return second(c.TagResource(ctx, &kms.TagResourceInput{KeyId: &key, Tags: tags(pairs...)}))
	}
	wantCode(t, put("a", "1", "b", "2"), "")
	wantCode(t, put("a", "3"), "")
	wantCode(t, put("A", "3"), codeTag)
	wantCode(t, put("", "3"), codeTag)
	many := []string{}
	for i := range maxTags {
		many = append(many, fmt.Sprint("t", i), "")
	}
	wantCode(t, put(many...), codeTag)
	_, err := c.UntagResource(ctx, &kms.UntagResourceInput{KeyId: &key, TagKeys: []string{"b"}})
	wantCode(t, err, "")
	out, err := c.ListResourceTags(ctx, &kms.ListResourceTagsInput{KeyId: &key})
	if err != nil || len(out.Tags) != 1 || *out.Tags[0].TagValue != "3" {
		t.Errorf("tags: %+v, %v", out, err)
	}
}

func TestPaging(t *testing.T) {
	w := newWorld(t)
	c := w.kms(adminRole)
	want := map[string]bool{}
	for range 7 {
		want[w.newKey("")] = true
	}
	pages := kms.NewListKeysPaginator(c, &kms.ListKeysInput{Limit: aws.Int32(3)})
	n := 0
	for pages.HasMorePages() {
		out, err := pages.NextPage(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		n++
		for _, k := range out.Keys {
			if !want[*k.KeyArn] {
				t.Errorf("%s comes twice, or from nowhere", *k.KeyArn)
			}
			delete(want, *k.KeyArn)
		}
	}
	if n != 3 || len(want) != 0 {
		t.Errorf("%d pages, %d keys left out", n, len(want))
	}
	_, err := c.ListKeys(t.Context(), &kms.ListKeysInput{Marker: aws.String("***")})
	wantCode(t, err, codeInvalidMarker)
	_, err = c.ListKeys(t.Context(), &kms.ListKeysInput{Limit: aws.Int32(1001)})
	wantCode(t, err, codeValidation)
}

func TestImport(t *testing.T) {
	w := newWorld(t)
	c, ctx := w.kms(adminRole), t.Context()
	external := func() *string {
		out, err := c.CreateKey(ctx, &kms.CreateKeyInput{Origin: types.OriginTypeExternal})
		if err != nil {
			t.Fatal(err)
		}
		return out.KeyMetadata.Arn
	}
	key := external()
	params, err := c.GetParametersForImport(ctx, &kms.GetParametersForImportInput{KeyId: key, WrappingAlgorithm: types.AlgorithmSpecRsaesOaepSha256, WrappingKeySpec: types.WrappingKeySpecRsa2048})
	if err != nil {
		t.Fatal(err)
	}
	public, err := x509.ParsePKIXPublicKey(params.PublicKey)
	if err != nil {
		t.Fatal(err)
	}
	wrap := func(material []byte) []byte {
		t.Helper()
		out, err := rsa.EncryptOAEP(sha256.New(), rand.Reader, public.(*rsa.PublicKey), material, nil)
		if err != nil {
			t.Fatal(err)
		}
		return out
	}
	material := make([]byte, 32)
	_, _ = rand.Read(material)
	put := func(key *string, token, wrapped []byte) error {
		return second(c.ImportKeyMaterial(ctx, &kms.ImportKeyMaterialInput{KeyId: key, ImportToken: token, EncryptedKeyMaterial: wrapped, ExpirationModel: types.ExpirationModelTypeKeyMaterialDoesNotExpire}))
	}
	encrypt := func() error {
		return second(c.Encrypt(ctx, &kms.EncryptInput{KeyId: key, Plaintext: []byte("x")}))
	}
	wantCode(t, encrypt(), codeInvalidState)
	wantCode(t, put(external(), params.ImportToken, wrap(material)), codeInvalidImportToken)
	wantCode(t, put(key, []byte("token"), wrap(material)), codeInvalidImportToken)
	wantCode(t, put(key, params.ImportToken, make([]byte, 256)), codeInvalidCiphertext)
	wantCode(t, put(key, params.ImportToken, wrap(material[:16])), codeIncorrectMaterial)
	wantCode(t, second(c.ImportKeyMaterial(ctx, &kms.ImportKeyMaterialInput{KeyId: key, ImportToken: params.ImportToken, EncryptedKeyMaterial: wrap(material)})), codeValidation)
	wantCode(t, put(key, params.ImportToken, wrap(material)), "")
	wantCode(t, encrypt(), "")
	wantCode(t, put(key, params.ImportToken, wrap(make([]byte, 32))), codeIncorrectMaterial)
	_, err = c.DeleteImportedKeyMaterial(ctx, &kms.DeleteImportedKeyMaterialInput{KeyId: key})
	wantCode(t, err, "")
	wantCode(t, encrypt(), codeInvalidState)
	wantCode(t, put(key, params.ImportToken, wrap(material)), "")
	own := w.newKey("")
	_, err = c.GetParametersForImport(ctx, &kms.GetParametersForImportInput{KeyId: &own, WrappingAlgorithm: types.AlgorithmSpecRsaesOaepSha256, WrappingKeySpec: types.WrappingKeySpecRsa2048})
	wantCode(t, err, codeUnsupported)
	wantCode(t, put(&own, params.ImportToken, wrap(material)), codeUnsupported)

	// Material with an end is gone after it; the key waits for it again.
	if _, err := c.ImportKeyMaterial(ctx, &kms.ImportKeyMaterialInput{KeyId: key, ImportToken: params.ImportToken, EncryptedKeyMaterial: wrap(material),
		ExpirationModel: types.ExpirationModelTypeKeyMaterialExpires, ValidTo: aws.Time(time.Now().Add(time.Hour))}); err != nil {
		t.Fatal(err)
	}
	w.shift.Store(int64(2 * time.Hour))
	k, _, err := w.server.lookup(*key, false)
	if err != nil || k.State != stateImport || k.Material != nil {
		t.Errorf("after its end: %+v, %v", k, err)
	}
}

func TestReplicate(t *testing.T) {
	w := newWorld(t)
	c, ctx := w.kms(adminRole), t.Context()
	single := w.newKey("")
	multi, err := c.CreateKey(ctx, &kms.CreateKeyInput{MultiRegion: aws.Bool(true)})
	if err != nil {
		t.Fatal(err)
	}
	for _, key := range []string{single, *multi.KeyMetadata.Arn} {
		_, err := c.ReplicateKey(ctx, &kms.ReplicateKeyInput{KeyId: &key, ReplicaRegion: aws.String("us-east-1")})
		wantCode(t, err, codeUnsupported)
	}
}
