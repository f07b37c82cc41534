package keyring_test

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"errors"
	"fmt"
	"maps"
	"net"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/credentials"
	"github.com/google/go-cmp/cmp"

	"github.com/cape-functions/cape/core/attest/nitro"
	attestkit "github.com/cape-functions/cape/core/attest/testkit"
	"github.com/cape-functions/cape/core/keypolicy"
	"github.com/cape-functions/cape/core/wire"
	"github.com/cape-functions/cape/enclave/internal/keyring"
	"github.com/cape-functions/cape/enclave/internal/keyring/testkit"
	"github.com/cape-functions/cape/enclave/internal/nsm"
	nsmkit "github.com/cape-functions/cape/enclave/internal/nsm/testkit"
)

const (
	account  = "111122223333"
	region   = "eu-west-1"
	role     = "arn:aws:iam::111122223333:role/service/cape"
	identity = "arn:aws:sts::111122223333:assumed-role/cape/i-0123456789abcdef0"
)

func noon() time.Time { return time.Date(2026, 3, 4, 12, 0, 0, 0, time.UTC) }

// rig is an enclave with a KMS and a sound KEK.
type rig struct {
	kms    *testkit.KMS
	module *nsmkit.Module
	device *nsm.Device
	params keypolicy.Params
	cfg    keyring.Config
}

func newRig(t *testing.T) *rig {
	t.Helper()
	r := &rig{kms: testkit.New(account, region, identity), module: nsmkit.New("keyring test", noon)}
	t.Cleanup(r.kms.Close)
	r.device = nsm.New(r.module)
	trust, err := r.device.Extend(16, []byte("trust"))
	if err != nil {
		t.Fatal(err)
	}
	if err := r.device.Lock(16); err != nil {
		t.Fatal(err)
	}
	r.params = keypolicy.Params{Partition: "aws", AccountID: account, Role: role, PCR8: []nitro.PCR{attestkit.PCR(8)}, PCR16: trust}
	r.cfg = keyring.Config{
		HTTP: keyring.NewHTTPClient((&net.Dialer{}).DialContext, r.kms.Roots()), KMSEndpoint: r.kms.URL(), STSEndpoint: r.kms.URL(),
		Credentials: credentials.NewStaticCredentialsProvider("AKIAEXAMPLE", "secret", "token"), Role: role, NSM: r.device,
		KeyARN: r.kms.Add(r.policy(t)),
	}
	return r
}

func (r *rig) policy(t *testing.T) string {
	t.Helper()
	b, err := keypolicy.Render(r.params)
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

func (r *rig) keyring(t *testing.T) *keyring.Keyring {
	t.Helper()
	k, err := keyring.New(r.cfg)
	if err != nil {
		t.Fatal(err)
	}
	return k
}

func functionContext() keyring.Context {
	return keyring.Context{Purpose: keyring.PurposeFunction, Account: "legacy:ab", Function: wire.FunctionID([]byte("m")), Manifest: strings.Repeat("ab", 32)}
}

func keyContext() keyring.Context {
	return keyring.Context{Purpose: keyring.PurposeCapeKey, Account: "legacy:ab"}
}

func pkcs8(t *testing.T, key any) []byte {
	t.Helper()
	der, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	return der
}

var rsa4096 = sync.OnceValue(func() *rsa.PrivateKey {
	k, err := rsa.GenerateKey(rand.Reader, 4096)
	if err != nil {
		panic(err)
	}
	return k
})

func TestDataKey(t *testing.T) {
	r := newRig(t)
	k := r.keyring(t)
	key, blob, err := k.NewDataKey(t.Context(), functionContext())
	if err != nil {
		t.Fatal(err)
	}
	if key.Len() != 32 || len(blob) == 0 {
		t.Fatalf("a key of %d and a blob of %d bytes", key.Len(), len(blob))
	}
	again, err := k.OpenDataKey(t.Context(), blob, functionContext())
	if err != nil || !again.Equal(key) {
		t.Errorf("opened another key: %v", err)
	}
	// Another boot, with another key pair, opens it as well.
	again, err = r.keyring(t).OpenDataKey(t.Context(), blob, functionContext())
	if err != nil || !again.Equal(key) {
		t.Errorf("the next boot opened another key: %v", err)
	}
	other, _, err := k.NewDataKey(t.Context(), functionContext())
	if err != nil || other.Equal(key) {
		t.Errorf("the same key twice: %v", err)
	}
}

func TestKeyPair(t *testing.T) {
	r := newRig(t)
	r.kms.Pair = pkcs8(t, rsa4096())
	k := r.keyring(t)
	key, blob, err := k.NewKeyPair(t.Context(), keyContext())
	if err != nil || !key.Equal(rsa4096()) {
		t.Fatalf("made another pair: %v", err)
	}
	again, err := k.OpenKeyPair(t.Context(), blob, keyContext())
	if err != nil || !again.Equal(key) {
		t.Errorf("opened another pair: %v", err)
	}
	// A pair is no data key, and the other way round.
	if _, err := k.OpenDataKey(t.Context(), blob, keyContext()); !errors.Is(err, keyring.ErrAnswer) {
		t.Errorf("opened a pair as a data key: %v", err)
	}
	_, blob, err = k.NewDataKey(t.Context(), functionContext())
	if err != nil {
		t.Fatal(err)
	}
	if _, err := k.OpenKeyPair(t.Context(), blob, functionContext()); !errors.Is(err, keyring.ErrAnswer) {
		t.Errorf("opened a data key as a pair: %v", err)
	}
}

func TestKeyPairOfAnotherKind(t *testing.T) {
	r := newRig(t)
	small, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		t.Fatal(err)
	}
	curve, err := ecdsa.GenerateKey(elliptic.P384(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	k := r.keyring(t)
	for name, pair := range map[string][]byte{
		"RSA-2048": pkcs8(t, small), "elliptic": pkcs8(t, curve), "PKCS#1": x509.MarshalPKCS1PrivateKey(rsa4096()),
		"empty": {}, "garbage": []byte("garbage"),
	} {
		r.kms.Pair = pair
		if key, blob, err := k.NewKeyPair(t.Context(), keyContext()); key != nil || blob != nil || !errors.Is(err, keyring.ErrAnswer) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// What KMS is asked: full ARN, context, and always a fresh document with one key pair.
func TestRequests(t *testing.T) {
	r := newRig(t)
	r.kms.Pair = pkcs8(t, rsa4096())
	k := r.keyring(t)
	ctx := t.Context()
	if len(r.kms.Calls()) != 0 || r.module.Documents() != 0 {
		t.Error("New spoke to somebody")
	}
	_, data, err1 := k.NewDataKey(ctx, functionContext())
	_, err2 := k.OpenDataKey(ctx, data, functionContext())
	_, pair, err3 := k.NewKeyPair(ctx, keyContext())
	_, err4 := k.OpenKeyPair(ctx, pair, keyContext())
	if err := errors.Join(err1, err2, err3, err4); err != nil {
		t.Fatal(err)
	}
	function := map[string]any{
		"cape:purpose": "function", "cape:account": "legacy:ab", "cape:function": functionContext().Function, "cape:manifest": functionContext().Manifest,
	}
	capeKey := map[string]any{"cape:purpose": "cape-key", "cape:account": "legacy:ab"}
	want := []struct {
		operation string
		context   map[string]any
		input     map[string]any
	}{
		{"GenerateDataKey", function, map[string]any{"KeySpec": "AES_256"}},
		{"Decrypt", function, map[string]any{"EncryptionAlgorithm": "SYMMETRIC_DEFAULT"}},
		{"GenerateDataKeyPair", capeKey, map[string]any{"KeyPairSpec": "RSA_4096"}},
		{"Decrypt", capeKey, map[string]any{"EncryptionAlgorithm": "SYMMETRIC_DEFAULT"}},
	}
	calls := r.kms.Calls()
	if len(calls) != len(want) {
		t.Fatalf("%d calls", len(calls))
	}
	for i, w := range want {
		c := calls[i]
		w.input["KeyId"], w.input["EncryptionContext"] = r.cfg.KeyARN, w.context
		recipient, _ := c.Input["Recipient"].(map[string]any)
		if recipient["KeyEncryptionAlgorithm"] != "RSAES_OAEP_SHA_256" || recipient["AttestationDocument"] == "" {
			t.Errorf("%s: recipient %v", w.operation, slices.Collect(maps.Keys(recipient)))
		}
		delete(c.Input, "Recipient")
		delete(c.Input, "CiphertextBlob")
		if diff := cmp.Diff(w.input, c.Input); c.Operation != w.operation || diff != "" {
			t.Errorf("%s: %s", c.Operation, diff)
		}
		if auth := c.Header.Get("Authorization"); !strings.HasPrefix(auth, "AWS4-HMAC-SHA256 Credential=AKIAEXAMPLE/") || !strings.Contains(auth, "/"+region+"/kms/aws4_request") {
			t.Errorf("%s: authorization %q", w.operation, auth)
		}
		if c.Header.Get("X-Amz-Security-Token") != "token" {
			t.Errorf("%s: no session token", w.operation)
		}
	}
	if n := r.module.Documents(); n != len(want) {
		t.Errorf("%d documents for %d calls", n, len(want))
	}
}

func TestOpenRefuses(t *testing.T) {
	r := newRig(t)
	k := r.keyring(t)
	_, blob, err := k.NewDataKey(t.Context(), functionContext())
	if err != nil {
		t.Fatal(err)
	}
	for _, tc := range []struct {
		name   string
		change func(c *keyring.Context)
	}{
		{"another account", func(c *keyring.Context) { c.Account = "legacy:cd" }},
		{"another function", func(c *keyring.Context) { c.Function = wire.FunctionID([]byte("other")) }},
		{"another manifest", func(c *keyring.Context) { c.Manifest = strings.Repeat("cd", 32) }},
		{"another purpose", func(c *keyring.Context) { *c = keyContext() }},
	} {
		c := functionContext()
		tc.change(&c)
		if key, err := k.OpenDataKey(t.Context(), blob, c); !errors.Is(err, keyring.ErrWrapped) || key.Len() != 0 {
			t.Errorf("%s: %v", tc.name, err)
		}
	}
	before := len(r.kms.Calls())
	for name, b := range map[string][]byte{"empty": nil, "too large": make([]byte, wire.MaxWrapped+1)} {
		if _, err := k.OpenDataKey(t.Context(), b, functionContext()); !errors.Is(err, keyring.ErrWrapped) {
			t.Errorf("%s: %v", name, err)
		}
		if _, err := k.OpenKeyPair(t.Context(), b, keyContext()); !errors.Is(err, keyring.ErrWrapped) {
			t.Errorf("%s: %v", name, err)
		}
	}
	if len(r.kms.Calls()) != before {
		t.Error("KMS was asked about a blob that cannot be one")
	}
	other := r.kms.Add(r.policy(t))
	r.cfg.KeyARN = other
	if _, err := r.keyring(t).OpenDataKey(t.Context(), blob, functionContext()); !errors.Is(err, keyring.ErrWrapped) {
		t.Errorf("under another key: %v", err)
	}
}

func TestContexts(t *testing.T) {
	r := newRig(t)
	k := r.keyring(t)
	for _, tc := range []struct {
		name string
		c    keyring.Context
	}{
		{"zero", keyring.Context{}},
		{"no purpose", keyring.Context{Account: "a"}},
		{"unknown purpose", keyring.Context{Purpose: "else", Account: "a"}},
		{"no account", keyring.Context{Purpose: keyring.PurposeCapeKey}},
		{"account with a space", keyring.Context{Purpose: keyring.PurposeCapeKey, Account: "a b"}},
		{"account too long", keyring.Context{Purpose: keyring.PurposeCapeKey, Account: strings.Repeat("a", 257)}},
		{"Cape Key of a function", keyring.Context{Purpose: keyring.PurposeCapeKey, Account: "a", Function: functionContext().Function}},
		{"Cape Key with a manifest", keyring.Context{Purpose: keyring.PurposeCapeKey, Account: "a", Manifest: functionContext().Manifest}},
		{"function without id", keyring.Context{Purpose: keyring.PurposeFunction, Account: "a", Manifest: functionContext().Manifest}},
		{"function without manifest", keyring.Context{Purpose: keyring.PurposeFunction, Account: "a", Function: functionContext().Function}},
		{"manifest in capitals", keyring.Context{Purpose: keyring.PurposeFunction, Account: "a", Function: functionContext().Function, Manifest: strings.Repeat("AB", 32)}},
	} {
		_, _, err1 := k.NewDataKey(t.Context(), tc.c)
		_, err2 := k.OpenDataKey(t.Context(), []byte("b"), tc.c)
		_, _, err3 := k.NewKeyPair(t.Context(), tc.c)
		_, err4 := k.OpenKeyPair(t.Context(), []byte("b"), tc.c)
		for _, err := range []error{err1, err2, err3, err4} {
			if !errors.Is(err, keyring.ErrContext) {
				t.Errorf("%s: %v", tc.name, err)
			}
		}
	}
	if len(r.kms.Calls()) != 0 || r.module.Documents() != 0 {
		t.Error("somebody was asked")
	}
}

func TestConcurrentUse(t *testing.T) {
	r := newRig(t)
	k := r.keyring(t)
	var wg sync.WaitGroup
	for i := range 8 {
		wg.Go(func() {
			c := keyring.Context{Purpose: keyring.PurposeCapeKey, Account: fmt.Sprint("a", i)}
			key, blob, err := k.NewDataKey(t.Context(), c)
			if err != nil {
				t.Error(err)
				return
			}
			again, err := k.OpenDataKey(t.Context(), blob, c)
			if err != nil || !bytes.Equal(again.Reveal(), key.Reveal()) {
				t.Errorf("another key: %v", err)
			}
		})
	}
	wg.Wait()
}
