package localkms

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/x509"
	"strings"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/kms"
	"github.com/aws/aws-sdk-go-v2/service/kms/types"
	"github.com/aws/aws-sdk-go-v2/service/sts"
)

func TestCreateAndDescribeKey(t *testing.T) {
	w := newWorld(t)
	c, ctx := w.kms(adminRole), t.Context()
	made, err := c.CreateKey(ctx, &kms.CreateKeyInput{
		Description: aws.String("for tests"),
		Tags:        []types.Tag{{TagKey: aws.String("a"), TagValue: aws.String("b")}},
	})
	if err != nil {
		t.Fatal(err)
	}
	for _, ref := range []string{*made.KeyMetadata.KeyId, *made.KeyMetadata.Arn} {
		out, err := c.DescribeKey(ctx, &kms.DescribeKeyInput{KeyId: &ref})
		if err != nil {
			t.Fatal(err)
		}
		m := out.KeyMetadata
		if m.Origin != types.OriginTypeAwsKms || *m.MultiRegion || m.KeyManager != types.KeyManagerTypeCustomer ||
			m.KeySpec != types.KeySpecSymmetricDefault || m.KeyUsage != types.KeyUsageTypeEncryptDecrypt || m.CustomKeyStoreId != nil ||
			m.KeyState != types.KeyStateEnabled || !m.Enabled || *m.AWSAccountId != testAccount || *m.Description != "for tests" {
			t.Errorf("metadata: %+v", m)
		}
		if !strings.HasPrefix(*m.Arn, "arn:aws:kms:"+testRegion+":"+testAccount+":key/") {
			t.Errorf("ARN is %s", *m.Arn)
		}
		if age := time.Since(*m.CreationDate); age < 0 || age > time.Minute {
			t.Errorf("created %v ago", age)
		}
	}
	for ref, code := range map[string]string{
		"11111111-1111-1111-1111-111111111111":                   "NotFoundException",
		"alias/none":                                             "NotFoundException",
		"arn:aws:kms:us-east-1:" + testAccount + ":key/x":        "NotFoundException",
		"arn:aws:kms:" + testRegion + ":999999999999:key/x":      "NotFoundException",
		"../../master":                                           "NotFoundException",
		"arn:aws:kms:" + testRegion + ":" + testAccount + ":x/y": "InvalidArnException",
		strings.Repeat("x", 2049):                                "ValidationException",
	} {
		_, err := c.DescribeKey(ctx, &kms.DescribeKeyInput{KeyId: &ref})
		wantCode(t, err, code)
	}
}

func TestCreateKeyForms(t *testing.T) {
	w := newWorld(t)
	c := w.kms(adminRole)
	for _, tc := range []struct {
		name string
		in   kms.CreateKeyInput
		code string
	}{
		{"multi-Region", kms.CreateKeyInput{MultiRegion: aws.Bool(true)}, ""},
		{"external", kms.CreateKeyInput{Origin: types.OriginTypeExternal}, ""},
		{"RSA", kms.CreateKeyInput{KeySpec: types.KeySpecRsa2048, KeyUsage: types.KeyUsageTypeEncryptDecrypt}, ""},
		{"HMAC", kms.CreateKeyInput{KeySpec: types.KeySpecHmac256, KeyUsage: types.KeyUsageTypeGenerateVerifyMac}, "UnsupportedOperationException"},
		{"signing", kms.CreateKeyInput{KeySpec: types.KeySpecRsa2048, KeyUsage: types.KeyUsageTypeSignVerify}, "UnsupportedOperationException"},
		{"curve", kms.CreateKeyInput{KeySpec: types.KeySpecEccNistP256}, "UnsupportedOperationException"},
		{"CloudHSM", kms.CreateKeyInput{Origin: types.OriginTypeAwsCloudhsm, CustomKeyStoreId: aws.String("cks-1")}, "UnsupportedOperationException"},
		{"external RSA", kms.CreateKeyInput{Origin: types.OriginTypeExternal, KeySpec: types.KeySpecRsa2048}, "UnsupportedOperationException"},
		{"description too long", kms.CreateKeyInput{Description: aws.String(strings.Repeat("x", maxDescription+1))}, "ValidationException"},
		{"reserved tag", kms.CreateKeyInput{Tags: []types.Tag{{TagKey: aws.String("aws:x"), TagValue: aws.String("")}}}, "TagException"},
		{"malformed policy", kms.CreateKeyInput{Policy: aws.String("{}")}, "MalformedPolicyDocumentException"},
		{"policy that locks out", kms.CreateKeyInput{Policy: aws.String(allowAll(testRole))}, "MalformedPolicyDocumentException"},
		{"the same with bypass", kms.CreateKeyInput{Policy: aws.String(allowAll(testRole)), BypassPolicyLockoutSafetyCheck: true}, ""},
	} {
		t.Run(tc.name, func(t *testing.T) {
			out, err := c.CreateKey(t.Context(), &tc.in)
			wantCode(t, err, tc.code)
			if err != nil {
				return
			}
			m := out.KeyMetadata
			if multi := tc.in.MultiRegion != nil; multi != *m.MultiRegion || multi != strings.HasPrefix(*m.KeyId, "mrk-") || multi != (m.MultiRegionConfiguration != nil) {
				t.Errorf("multi-Region: %+v", m)
			}
			if external := tc.in.Origin == types.OriginTypeExternal; external != (m.KeyState == types.KeyStatePendingImport) {
				t.Errorf("external: %+v", m)
			}
		})
	}
	_, err := w.kms("arn:aws:iam::999999999999:role/stranger").CreateKey(t.Context(), &kms.CreateKeyInput{})
	wantCode(t, err, "AccessDeniedException")
}

func TestEncryptDecryptReEncrypt(t *testing.T) {
	w := newWorld(t)
	c, ctx := w.kms(adminRole), t.Context()
	a, b := w.newKey(""), w.newKey("")
	context := map[string]string{"purpose": "test", "empty": ""}
	enc, err := c.Encrypt(ctx, &kms.EncryptInput{KeyId: &a, Plaintext: []byte("secret"), EncryptionContext: context})
	if err != nil {
		t.Fatal(err)
	}
	if bytes.Contains(enc.CiphertextBlob, []byte("secret")) || *enc.KeyId != a {
		t.Fatal("ciphertext holds the plaintext, or KeyId is not the key's")
	}
	damaged := bytes.Clone(enc.CiphertextBlob)
	damaged[len(damaged)-1] ^= 1
	headless := bytes.Clone(enc.CiphertextBlob)
	headless[0] ^= 1
	elsewhere := append(blobHeader("11111111-1111-1111-1111-111111111111"), make([]byte, 64)...)
	for _, tc := range []struct {
		name    string
		blob    []byte
		key     *string
		context map[string]string
		code    string
	}{
		{"as it was", enc.CiphertextBlob, nil, context, ""},
		{"key named", enc.CiphertextBlob, &a, context, ""},
		{"other key named", enc.CiphertextBlob, &b, context, "IncorrectKeyException"},
		{"no context", enc.CiphertextBlob, nil, nil, "InvalidCiphertextException"},
		{"less context", enc.CiphertextBlob, nil, map[string]string{"purpose": "test"}, "InvalidCiphertextException"},
		{"other context", enc.CiphertextBlob, nil, map[string]string{"purpose": "tes", "empty": "t"}, "InvalidCiphertextException"},
		{"damaged", damaged, nil, context, "InvalidCiphertextException"},
		{"no header", headless, nil, context, "InvalidCiphertextException"},
		{"cut", enc.CiphertextBlob[:60], nil, context, "InvalidCiphertextException"},
		{"unknown key", elsewhere, nil, context, "AccessDeniedException"},
		{"too long", make([]byte, maxCiphertext+1), nil, context, "ValidationException"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			out, err := c.Decrypt(ctx, &kms.DecryptInput{CiphertextBlob: tc.blob, KeyId: tc.key, EncryptionContext: tc.context})
			wantCode(t, err, tc.code)
			if err == nil && (string(out.Plaintext) != "secret" || *out.KeyId != a || out.CiphertextForRecipient != nil) {
				t.Errorf("got %+v", out)
			}
		})
	}
	re, err := c.ReEncrypt(ctx, &kms.ReEncryptInput{CiphertextBlob: enc.CiphertextBlob, SourceEncryptionContext: context, DestinationKeyId: &b})
	if err != nil {
		t.Fatal(err)
	}
	if *re.SourceKeyId != a || *re.KeyId != b {
		t.Errorf("from %s to %s", *re.SourceKeyId, *re.KeyId)
	}
	out, err := c.Decrypt(ctx, &kms.DecryptInput{CiphertextBlob: re.CiphertextBlob, KeyId: &b})
	if err != nil || string(out.Plaintext) != "secret" {
		t.Errorf("after ReEncrypt: %v", err)
	}
	_, err = c.Encrypt(ctx, &kms.EncryptInput{KeyId: &a, Plaintext: make([]byte, maxPlaintext+1)})
	wantCode(t, err, "ValidationException")
	_, err = c.Encrypt(ctx, &kms.EncryptInput{KeyId: &a, Plaintext: []byte("x"), EncryptionContext: map[string]string{"A": "1", "a": "2"}})
	wantCode(t, err, "ValidationException")
	_, err = c.Encrypt(ctx, &kms.EncryptInput{KeyId: &a, Plaintext: []byte("x"), EncryptionContext: map[string]string{"a": strings.Repeat("x", maxContextBytes)}})
	wantCode(t, err, "ValidationException")
	_, err = c.Encrypt(ctx, &kms.EncryptInput{KeyId: &a, Plaintext: []byte("x"), DryRun: aws.Bool(true)})
	wantCode(t, err, "DryRunOperationException")
}

func TestDataKeys(t *testing.T) {
	w := newWorld(t)
	c, ctx := w.kms(adminRole), t.Context()
	key := w.newKey("")
	for _, tc := range []struct {
		in   kms.GenerateDataKeyInput
		size int
		code string
	}{
		{kms.GenerateDataKeyInput{KeySpec: types.DataKeySpecAes256}, 32, ""},
		{kms.GenerateDataKeyInput{KeySpec: types.DataKeySpecAes128}, 16, ""},
		{kms.GenerateDataKeyInput{NumberOfBytes: aws.Int32(1024)}, 1024, ""},
		{kms.GenerateDataKeyInput{NumberOfBytes: aws.Int32(1025)}, 0, "ValidationException"},
		{kms.GenerateDataKeyInput{NumberOfBytes: aws.Int32(0)}, 0, "ValidationException"},
		{kms.GenerateDataKeyInput{}, 0, "ValidationException"},
		{kms.GenerateDataKeyInput{KeySpec: types.DataKeySpecAes256, NumberOfBytes: aws.Int32(32)}, 0, "ValidationException"},
	} {
		tc.in.KeyId, tc.in.EncryptionContext = &key, map[string]string{"a": "b"}
		out, err := c.GenerateDataKey(ctx, &tc.in)
		wantCode(t, err, tc.code)
		if err != nil {
			continue
		}
		back, err := c.Decrypt(ctx, &kms.DecryptInput{CiphertextBlob: out.CiphertextBlob, EncryptionContext: tc.in.EncryptionContext})
		if err != nil || len(out.Plaintext) != tc.size || !bytes.Equal(back.Plaintext, out.Plaintext) || *out.KeyId != key {
			t.Errorf("%d bytes: %v", tc.size, err)
		}
	}
	hidden, err := c.GenerateDataKeyWithoutPlaintext(ctx, &kms.GenerateDataKeyWithoutPlaintextInput{KeyId: &key, KeySpec: types.DataKeySpecAes256})
	if err != nil {
		t.Fatal(err)
	}
	back, err := c.Decrypt(ctx, &kms.DecryptInput{CiphertextBlob: hidden.CiphertextBlob})
	if err != nil || len(back.Plaintext) != 32 {
		t.Errorf("WithoutPlaintext: %v", err)
	}
	random, err := c.GenerateRandom(ctx, &kms.GenerateRandomInput{NumberOfBytes: aws.Int32(64)})
	if err != nil || len(random.Plaintext) != 64 || bytes.Equal(random.Plaintext, make([]byte, 64)) {
		t.Errorf("GenerateRandom: %v", err)
	}
	_, err = c.GenerateRandom(ctx, &kms.GenerateRandomInput{})
	wantCode(t, err, "ValidationException")
}

func TestDataKeyPairs(t *testing.T) {
	w := newWorld(t)
	c, ctx := w.kms(adminRole), t.Context()
	key := w.newKey("")
	for _, spec := range []types.DataKeyPairSpec{types.DataKeyPairSpecRsa2048, types.DataKeyPairSpecRsa4096, types.DataKeyPairSpecEccNistP256, types.DataKeyPairSpecEccNistP384} {
		out, err := c.GenerateDataKeyPair(ctx, &kms.GenerateDataKeyPairInput{KeyId: &key, KeyPairSpec: spec, EncryptionContext: map[string]string{"a": "b"}})
		if err != nil {
			t.Fatal(err)
		}
		back, err := c.Decrypt(ctx, &kms.DecryptInput{CiphertextBlob: out.PrivateKeyCiphertextBlob, EncryptionContext: map[string]string{"a": "b"}})
		if err != nil || !bytes.Equal(back.Plaintext, out.PrivateKeyPlaintext) {
			t.Fatalf("%s: %v", spec, err)
		}
		private, err := x509.ParsePKCS8PrivateKey(back.Plaintext)
		if err != nil {
			t.Fatal(err)
		}
		public, err := x509.ParsePKIXPublicKey(out.PublicKey)
		if err != nil {
			t.Fatal(err)
		}
		fits := false
		switch k := private.(type) {
		case *rsa.PrivateKey:
			fits = k.PublicKey.Equal(public)
		case *ecdsa.PrivateKey:
			fits = k.PublicKey.Equal(public)
		}
		if !fits || len(out.PrivateKeyCiphertextBlob) > maxCiphertext {
			t.Errorf("%s: halves do not fit", spec)
		}
	}
	hidden, err := c.GenerateDataKeyPairWithoutPlaintext(ctx, &kms.GenerateDataKeyPairWithoutPlaintextInput{KeyId: &key, KeyPairSpec: types.DataKeyPairSpecEccNistP256})
	if err != nil || len(hidden.PublicKey) == 0 || len(hidden.PrivateKeyCiphertextBlob) == 0 {
		t.Errorf("WithoutPlaintext: %v", err)
	}
	_, err = c.GenerateDataKeyPair(ctx, &kms.GenerateDataKeyPairInput{KeyId: &key, KeyPairSpec: types.DataKeyPairSpecSm2})
	wantCode(t, err, "UnsupportedOperationException")
}

func TestRSAKeys(t *testing.T) {
	w := newWorld(t)
	c, ctx := w.kms(adminRole), t.Context()
	made, err := c.CreateKey(ctx, &kms.CreateKeyInput{KeySpec: types.KeySpecRsa2048, KeyUsage: types.KeyUsageTypeEncryptDecrypt})
	if err != nil {
		t.Fatal(err)
	}
	key := made.KeyMetadata.Arn
	pub, err := c.GetPublicKey(ctx, &kms.GetPublicKeyInput{KeyId: key})
	if err != nil {
		t.Fatal(err)
	}
	k, err := x509.ParsePKIXPublicKey(pub.PublicKey)
	if err != nil {
		t.Fatal(err)
	}
	blob, err := rsa.EncryptOAEP(sha256.New(), rand.Reader, k.(*rsa.PublicKey), []byte("secret"), nil)
	if err != nil {
		t.Fatal(err)
	}
	out, err := c.Decrypt(ctx, &kms.DecryptInput{KeyId: key, CiphertextBlob: blob, EncryptionAlgorithm: types.EncryptionAlgorithmSpecRsaesOaepSha256})
	if err != nil || string(out.Plaintext) != "secret" {
		t.Errorf("decrypt: %v", err)
	}
	_, err = c.Decrypt(ctx, &kms.DecryptInput{KeyId: key, CiphertextBlob: blob, EncryptionAlgorithm: types.EncryptionAlgorithmSpecRsaesOaepSha1})
	wantCode(t, err, "InvalidCiphertextException")
	_, err = c.Decrypt(ctx, &kms.DecryptInput{CiphertextBlob: blob, EncryptionAlgorithm: types.EncryptionAlgorithmSpecRsaesOaepSha256})
	wantCode(t, err, "ValidationException")
	_, err = c.Encrypt(ctx, &kms.EncryptInput{KeyId: key, Plaintext: []byte("x")})
	wantCode(t, err, "InvalidKeyUsageException")
	_, err = c.Encrypt(ctx, &kms.EncryptInput{KeyId: key, Plaintext: make([]byte, 400), EncryptionAlgorithm: types.EncryptionAlgorithmSpecRsaesOaepSha256})
	wantCode(t, err, "ValidationException")
	_, err = c.GenerateDataKey(ctx, &kms.GenerateDataKeyInput{KeyId: key, KeySpec: types.DataKeySpecAes256})
	wantCode(t, err, "InvalidKeyUsageException")
	_, err = c.Encrypt(ctx, &kms.EncryptInput{KeyId: key, Plaintext: []byte("x"), EncryptionContext: map[string]string{"a": "b"}, EncryptionAlgorithm: types.EncryptionAlgorithmSpecRsaesOaepSha256})
	wantCode(t, err, "ValidationException")
	symmetric := w.newKey("")
	_, err = c.GetPublicKey(ctx, &kms.GetPublicKeyInput{KeyId: &symmetric})
	wantCode(t, err, "UnsupportedOperationException")
}

func TestCallerIdentity(t *testing.T) {
	w := newWorld(t)
	for principal, want := range map[string]string{
		testRole: "arn:aws:sts::111122223333:assumed-role/cape-runtime/localkms",
		"arn:aws:iam::111122223333:role/a/path/name": "arn:aws:sts::111122223333:assumed-role/name/localkms",
		"arn:aws:iam::111122223333:user/ada":         "arn:aws:iam::111122223333:user/ada",
		rootARN:                                      rootARN,
	} {
		out, err := w.sts(principal).GetCallerIdentity(t.Context(), &sts.GetCallerIdentityInput{})
		if err != nil {
			t.Fatal(err)
		}
		if *out.Arn != want || *out.Account != testAccount || *out.UserId == "" {
			t.Errorf("%s is %s (%s, %s), want %s", principal, *out.Arn, *out.Account, *out.UserId, want)
		}
	}
	_, err := w.sts(testRole).GetSessionToken(t.Context(), &sts.GetSessionTokenInput{})
	wantCode(t, err, "InvalidAction")
}

func TestCredentialsForNobody(t *testing.T) {
	w := newWorld(t)
	for _, principal := range []string{"", "*", "runtime", "arn:aws:iam::1:role/x", "arn:aws:iam::111122223333:role/*",
		"arn:aws:s3:::bucket", "arn:aws:sts::111122223333:assumed-role/a/b", testRole + "\n", "arn:aws:iam::111122223333:role/" + strings.Repeat("a", 2000)} {
		if c := w.server.Credentials(principal); c.AccessKeyID != "" || c.SecretAccessKey != "" || c.Token != "" {
			t.Errorf("%.60q has credentials", principal)
		}
	}
}
