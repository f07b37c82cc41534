package localkms

import (
	"bytes"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/kms"
	"github.com/aws/aws-sdk-go-v2/service/kms/types"

	"github.com/cape-functions/cape/core/attest/chain"
	"github.com/cape-functions/cape/core/attest/nitro"
	"github.com/cape-functions/cape/core/attest/testkit"
	cms "github.com/cape-functions/cape/host/internal/localkms/cms/testkit"
)

var dataContext = map[string]string{"cape:purpose": "function", "cape:function": "id"}

// attestedPolicy is a key policy of the platform's form: what cannot be
// attested is denied to everybody, and each PCR has a Deny of its own.
func attestedPolicy(pcrs map[int]nitro.PCR) string {
	denied := `["kms:Encrypt","kms:ReEncrypt*","kms:GenerateDataKey*WithoutPlaintext","kms:CreateGrant","kms:PutKeyPolicy","kms:ReplicateKey","kms:ImportKeyMaterial"]`
	s := []string{
		allow(testRole, "kms:*"),
		allow(adminRole, "kms:*"),
		`{"Effect":"Deny","Principal":"*","Action":` + denied + `,"Resource":"*"}`,
	}
	for i, v := range pcrs {
		s = append(s, fmt.Sprintf(`{"Effect":"Deny","Principal":"*","Action":["kms:Decrypt","kms:GenerateDataKey","kms:GenerateDataKeyPair"],"Resource":"*",`+
			`"Condition":{"StringNotEqualsIgnoreCase":{"kms:RecipientAttestation:PCR%d":%q}}}`, i, strings.ToUpper(v.String())))
	}
	return policyOf(s...)
}

// enclavePCRs are those of the test authority's documents.
func enclavePCRs() map[int]nitro.PCR {
	return map[int]nitro.PCR{0: testkit.PCR(0), 8: testkit.PCR(8), 16: testkit.PCR(16)}
}

func TestAttestedOperations(t *testing.T) {
	w := newWorld(t)
	c, ctx := w.kms(testRole), t.Context()
	key := w.newKey(attestedPolicy(enclavePCRs()))

	dek, err := c.GenerateDataKey(ctx, &kms.GenerateDataKeyInput{KeyId: &key, KeySpec: types.DataKeySpecAes256, EncryptionContext: dataContext, Recipient: recipientOf(w.document())})
	if err != nil {
		t.Fatal(err)
	}
	secret := open(t, dek.CiphertextForRecipient)
	if len(dek.Plaintext) != 0 || len(secret) != 32 {
		t.Errorf("plaintext of %d, secret of %d bytes", len(dek.Plaintext), len(secret))
	}
	back, err := c.Decrypt(ctx, &kms.DecryptInput{KeyId: &key, CiphertextBlob: dek.CiphertextBlob, EncryptionContext: dataContext, Recipient: recipientOf(w.document())})
	if err != nil {
		t.Fatal(err)
	}
	if len(back.Plaintext) != 0 || !bytes.Equal(open(t, back.CiphertextForRecipient), secret) || *back.KeyId != key {
		t.Error("the data key does not come back, or comes back in plain")
	}
	pair, err := c.GenerateDataKeyPair(ctx, &kms.GenerateDataKeyPairInput{KeyId: &key, KeyPairSpec: types.DataKeyPairSpecRsa4096, EncryptionContext: dataContext, Recipient: recipientOf(w.document())})
	if err != nil {
		t.Fatal(err)
	}
	private, err := x509.ParsePKCS8PrivateKey(open(t, pair.CiphertextForRecipient))
	if err != nil {
		t.Fatal(err)
	}
	public, err := x509.ParsePKIXPublicKey(pair.PublicKey)
	if err != nil {
		t.Fatal(err)
	}
	if k := private.(*rsa.PrivateKey); len(pair.PrivateKeyPlaintext) != 0 || !k.PublicKey.Equal(public) || k.N.BitLen() != 4096 {
		t.Error("the pair does not fit, or comes in plain")
	}
	random, err := c.GenerateRandom(ctx, &kms.GenerateRandomInput{NumberOfBytes: aws.Int32(12), Recipient: recipientOf(w.document())})
	if err != nil || len(random.Plaintext) != 0 || len(open(t, random.CiphertextForRecipient)) != 12 {
		t.Errorf("GenerateRandom: %v", err)
	}
}

// attempts are the three attested operations, each with a Recipient or none.
func attempts(t *testing.T, w *world, key string, blob []byte) map[string]func(r *types.RecipientInfo, context map[string]string) error {
	c := w.kms(testRole)
	return map[string]func(*types.RecipientInfo, map[string]string) error{
		"Decrypt": func(r *types.RecipientInfo, context map[string]string) error {
			_, err := c.Decrypt(t.Context(), &kms.DecryptInput{CiphertextBlob: blob, EncryptionContext: context, Recipient: r})
			return err
		},
		"GenerateDataKey": func(r *types.RecipientInfo, context map[string]string) error {
			_, err := c.GenerateDataKey(t.Context(), &kms.GenerateDataKeyInput{KeyId: &key, KeySpec: types.DataKeySpecAes256, EncryptionContext: context, Recipient: r})
			return err
		},
		"GenerateDataKeyPair": func(r *types.RecipientInfo, context map[string]string) error {
			_, err := c.GenerateDataKeyPair(t.Context(), &kms.GenerateDataKeyPairInput{KeyId: &key, KeyPairSpec: types.DataKeyPairSpecEccNistP256, EncryptionContext: context, Recipient: r})
			return err
		},
	}
}

func TestAttestationDecides(t *testing.T) {
	w := newWorld(t)
	key := w.newKey(attestedPolicy(enclavePCRs()))
	dek, err := w.kms(testRole).GenerateDataKey(t.Context(), &kms.GenerateDataKeyInput{KeyId: &key, KeySpec: types.DataKeySpecAes256, EncryptionContext: dataContext, Recipient: recipientOf(w.document())})
	if err != nil {
		t.Fatal(err)
	}
	run := attempts(t, w, key, dek.CiphertextBlob)
	foreign := testkit.NewAuthority("somebody else's", time.Now())
	sound := w.document()
	changed := func(f func(*nitro.Document)) *types.RecipientInfo { return recipientOf(w.document(f)) }
	pcr := func(i int) *types.RecipientInfo {
		return changed(func(d *nitro.Document) { d.PCRs[i] = testkit.PCR(31) })
	}
	forged := bytes.Clone(sound)
	forged[len(forged)-1] ^= 1
	for _, tc := range []struct {
		name string
		r    *types.RecipientInfo
		code string
	}{
		{"sound", recipientOf(sound), ""},
		{"sound, sent again at once", recipientOf(sound), ""},
		{"no Recipient", nil, "AccessDeniedException"},
		{"wrong PCR0", pcr(0), "AccessDeniedException"},
		{"wrong PCR8", pcr(8), "AccessDeniedException"},
		{"wrong PCR16", pcr(16), "AccessDeniedException"},
		{"PCR8 left out", changed(func(d *nitro.Document) { delete(d.PCRs, 8) }), "AccessDeniedException"},
		{"debug: zero PCRs", changed(func(d *nitro.Document) {
			for i := range d.PCRs {
				d.PCRs[i] = nitro.PCR{}
			}
		}), "AccessDeniedException"},
		{"another root", recipientOf(w.signed(foreign)), "ValidationException"},
		{"forged signature", recipientOf(forged), "ValidationException"},
		{"older than 5 minutes", changed(func(d *nitro.Document) { d.Timestamp = w.now().Add(-maxDocumentAge - 2*time.Second) }), "ValidationException"},
		{"4 minutes old", changed(func(d *nitro.Document) { d.Timestamp = w.now().Add(-4 * time.Minute) }), ""},
		{"from the future", changed(func(d *nitro.Document) { d.Timestamp = w.now().Add(6 * time.Minute) }), "ValidationException"},
		{"no public key", changed(func(d *nitro.Document) { d.PublicKey = nil }), "ValidationException"},
		{"session key in place of RSA", changed(func(d *nitro.Document) { d.PublicKey = make([]byte, 32) }), "ValidationException"},
		{"not a document", recipientOf([]byte("document")), "ValidationException"},
		{"too long", recipientOf(make([]byte, nitro.MaxDocument+1)), "ValidationException"},
		{"empty", recipientOf(nil), "ValidationException"},
		{"other key wrapping", &types.RecipientInfo{AttestationDocument: sound, KeyEncryptionAlgorithm: "RSAES_OAEP_SHA_1"}, "ValidationException"},
	} {
		for name, attempt := range run {
			t.Run(name+"/"+tc.name, func(t *testing.T) { wantCode(t, attempt(tc.r, dataContext), tc.code) })
		}
	}
	t.Run("altered encryption context", func(t *testing.T) {
		wantCode(t, run["Decrypt"](recipientOf(w.document()), map[string]string{"cape:purpose": "function", "cape:function": "other"}), "InvalidCiphertextException")
	})
}

// A document that was good is refused when its five minutes are over, although
// the chain that signed it is remembered.
func TestReplayedDocument(t *testing.T) {
	w := newWorld(t)
	key := w.newKey(attestedPolicy(enclavePCRs()))
	old := recipientOf(w.document())
	generate := func() error {
		_, err := w.kms(testRole).GenerateDataKey(t.Context(), &kms.GenerateDataKeyInput{KeyId: &key, KeySpec: types.DataKeySpecAes256, Recipient: old})
		return err
	}
	wantCode(t, generate(), "")
	// The request is signed at the client's clock, so the server's moves by less
	// than the document's age allows and the document is made older.
	w.shift.Store(int64(4 * time.Minute))
	wantCode(t, generate(), "")
	old = recipientOf(w.document(func(d *nitro.Document) { d.Timestamp = time.Now().Add(-90 * time.Second) }))
	wantCode(t, generate(), "ValidationException")
}

func TestNoRootsNoAttestation(t *testing.T) {
	for name, roots := range map[string]func() [][]byte{
		"nil function": nil,
		"none":         func() [][]byte { return nil },
		"AWS alone":    func() [][]byte { return [][]byte{chain.AWSRoot()} },
	} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t, func(c *Config) { c.AttestationRoots = roots })
			_, err := w.kms(adminRole).GenerateRandom(t.Context(), &kms.GenerateRandomInput{NumberOfBytes: aws.Int32(1), Recipient: recipientOf(w.document())})
			wantCode(t, err, "ValidationException")
		})
	}
}

// As at AWS, a debug enclave's PCRs are zeros, and a policy that names zeros
// means them.
func TestDebugDocuments(t *testing.T) {
	w := newWorld(t)
	zero := w.document(func(d *nitro.Document) {
		for i := range d.PCRs {
			d.PCRs[i] = nitro.PCR{}
		}
	})
	use := func(key string) error {
		_, err := w.kms(testRole).GenerateDataKey(t.Context(), &kms.GenerateDataKeyInput{KeyId: &key, KeySpec: types.DataKeySpecAes256, Recipient: recipientOf(zero)})
		return err
	}
	wantCode(t, use(w.newKey(attestedPolicy(map[int]nitro.PCR{0: {}}))), "")
	wantCode(t, use(w.newKey(attestedPolicy(map[int]nitro.PCR{0: testkit.PCR(0)}))), "AccessDeniedException")
}

func TestImageSha384(t *testing.T) {
	w := newWorld(t)
	for pcr, code := range map[nitro.PCR]string{testkit.PCR(0): "", testkit.PCR(1): "AccessDeniedException"} {
		key := w.newKey(policyOf(fmt.Sprintf(`{"Effect":"Allow","Principal":{"AWS":%q},"Action":"kms:GenerateDataKey","Resource":"*",`+
			`"Condition":{"StringEqualsIgnoreCase":{"kms:RecipientAttestation:ImageSha384":%q}}}`, testRole, pcr)))
		_, err := w.kms(testRole).GenerateDataKey(t.Context(), &kms.GenerateDataKeyInput{KeyId: &key, KeySpec: types.DataKeySpecAes256, Recipient: recipientOf(w.document())})
		wantCode(t, err, code)
		_, err = w.kms(testRole).GenerateDataKey(t.Context(), &kms.GenerateDataKeyInput{KeyId: &key, KeySpec: types.DataKeySpecAes256})
		wantCode(t, err, "AccessDeniedException")
	}
}

// The denials hold for administrators as much as for the enclave's role, with
// an attestation or without one.
func TestDeniedToEverybody(t *testing.T) {
	w := newWorld(t)
	text := attestedPolicy(enclavePCRs())
	key := w.newKey(text)
	free := w.newKey("")
	in := &kms.CreateKeyInput{Policy: &text, BypassPolicyLockoutSafetyCheck: true, Origin: types.OriginTypeExternal}
	made, err := w.kms(adminRole).CreateKey(t.Context(), in)
	if err != nil {
		t.Fatal(err)
	}
	external := made.KeyMetadata.Arn
	dek, err := w.kms(testRole).GenerateDataKey(t.Context(), &kms.GenerateDataKeyInput{KeyId: &key, KeySpec: types.DataKeySpecAes256, Recipient: recipientOf(w.document())})
	if err != nil {
		t.Fatal(err)
	}
	outside, err := w.kms(adminRole).Encrypt(t.Context(), &kms.EncryptInput{KeyId: &free, Plaintext: []byte("a key of the host's own")})
	if err != nil {
		t.Fatal(err)
	}
	params, err := w.kms(adminRole).GetParametersForImport(t.Context(), &kms.GetParametersForImportInput{KeyId: external, WrappingAlgorithm: types.AlgorithmSpecRsaesOaepSha256, WrappingKeySpec: types.WrappingKeySpecRsa2048})
	if err != nil {
		t.Fatal(err)
	}
	for _, principal := range []string{testRole, adminRole, rootARN} {
		c, ctx := w.kms(principal), t.Context()
		for name, attempt := range map[string]func() error{
			"Encrypt": func() error {
				_, err := c.Encrypt(ctx, &kms.EncryptInput{KeyId: &key, Plaintext: []byte("x")})
				return err
			},
			"ReEncrypt out of it": func() error {
				_, err := c.ReEncrypt(ctx, &kms.ReEncryptInput{CiphertextBlob: dek.CiphertextBlob, DestinationKeyId: &free})
				return err
			},
			"ReEncrypt into it": func() error {
				_, err := c.ReEncrypt(ctx, &kms.ReEncryptInput{CiphertextBlob: outside.CiphertextBlob, DestinationKeyId: &key})
				return err
			},
			"GenerateDataKeyWithoutPlaintext": func() error {
				_, err := c.GenerateDataKeyWithoutPlaintext(ctx, &kms.GenerateDataKeyWithoutPlaintextInput{KeyId: &key, KeySpec: types.DataKeySpecAes256})
				return err
			},
			"GenerateDataKeyPairWithoutPlaintext": func() error {
				_, err := c.GenerateDataKeyPairWithoutPlaintext(ctx, &kms.GenerateDataKeyPairWithoutPlaintextInput{KeyId: &key, KeyPairSpec: types.DataKeyPairSpecEccNistP256})
				return err
			},
			"CreateGrant": func() error {
				_, err := c.CreateGrant(ctx, &kms.CreateGrantInput{KeyId: &key, GranteePrincipal: &principal, Operations: []types.GrantOperation{types.GrantOperationDecrypt}})
				return err
			},
			"PutKeyPolicy": func() error {
				_, err := c.PutKeyPolicy(ctx, &kms.PutKeyPolicyInput{KeyId: &key, Policy: aws.String(allowAll(principal)), BypassPolicyLockoutSafetyCheck: true})
				return err
			},
			"ReplicateKey": func() error {
				_, err := c.ReplicateKey(ctx, &kms.ReplicateKeyInput{KeyId: &key, ReplicaRegion: aws.String("us-east-1")})
				return err
			},
			"ImportKeyMaterial": func() error {
				_, err := c.ImportKeyMaterial(ctx, &kms.ImportKeyMaterialInput{KeyId: external, ImportToken: params.ImportToken, EncryptedKeyMaterial: make([]byte, 256), ExpirationModel: types.ExpirationModelTypeKeyMaterialDoesNotExpire})
				return err
			},
			"Decrypt": func() error {
				_, err := c.Decrypt(ctx, &kms.DecryptInput{CiphertextBlob: dek.CiphertextBlob})
				return err
			},
		} {
			t.Run(principal+"/"+name, func(t *testing.T) { wantCode(t, attempt(), "AccessDeniedException") })
		}
	}
	out, err := w.kms(adminRole).GetKeyPolicy(t.Context(), &kms.GetKeyPolicyInput{KeyId: &key})
	if err != nil || *out.Policy != text {
		t.Errorf("policy is not what it was: %v", err)
	}
}

// Each answer is for the key of its own document.
func TestEachRecipientItsOwn(t *testing.T) {
	w := newWorld(t)
	other, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		t.Fatal(err)
	}
	der, err := x509.MarshalPKIXPublicKey(&other.PublicKey)
	if err != nil {
		t.Fatal(err)
	}
	key := w.newKey(attestedPolicy(enclavePCRs()))
	out, err := w.kms(testRole).GenerateDataKey(t.Context(), &kms.GenerateDataKeyInput{KeyId: &key, KeySpec: types.DataKeySpecAes256,
		Recipient: recipientOf(w.document(func(d *nitro.Document) { d.PublicKey = der }))})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := cms.Open(out.CiphertextForRecipient, enclaveKey()); err == nil {
		t.Error("opens with another enclave's key")
	}
	if _, err := cms.Open(out.CiphertextForRecipient, other); err != nil {
		t.Error(err)
	}
}
