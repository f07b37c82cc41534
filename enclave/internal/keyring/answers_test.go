package keyring_test

import (
	"context"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"errors"
	"net"
	"net/http"
	"strings"
	"testing"

	"github.com/cape-functions/cape/core/wire"
	"github.com/cape-functions/cape/enclave/internal/keyring"
	"github.com/cape-functions/cape/enclave/internal/keyring/testkit"
	"github.com/cape-functions/cape/enclave/internal/nsm"
)

func TestHostileAnswers(t *testing.T) {
	r := newRig(t)
	r.kms.Pair = pkcs8(t, rsa4096())
	k := r.keyring(t)
	_, data, err := k.NewDataKey(t.Context(), functionContext())
	if err != nil {
		t.Fatal(err)
	}
	stranger, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		t.Fatal(err)
	}
	set := func(field string, v any) func(map[string]any) { return func(a map[string]any) { a[field] = v } }
	for _, tc := range []struct {
		name   string
		change func(answer map[string]any)
		want   error
	}{
		{"another key", set("KeyId", strings.Replace(r.cfg.KeyARN, account, "444455556666", 1)), keyring.ErrOtherKey},
		{"an alias", set("KeyId", "arn:aws:kms:eu-west-1:111122223333:alias/kek"), keyring.ErrOtherKey},
		{"the id alone", set("KeyId", r.cfg.KeyARN[strings.LastIndexByte(r.cfg.KeyARN, '/')+1:]), keyring.ErrOtherKey},
		{"no key", set("KeyId", nil), keyring.ErrOtherKey},
		{"plaintext beside it", func(a map[string]any) {
			a["Plaintext"], a["PrivateKeyPlaintext"] = make([]byte, 32), pkcs8(t, rsa4096())
		}, keyring.ErrAnswer},
		{"plaintext instead", func(a map[string]any) {
			a["Plaintext"], a["PrivateKeyPlaintext"] = make([]byte, 32), pkcs8(t, rsa4096())
			delete(a, "CiphertextForRecipient")
		}, keyring.ErrAnswer},
		{"nothing for the recipient", set("CiphertextForRecipient", nil), keyring.ErrAnswer},
		{"garbage for the recipient", set("CiphertextForRecipient", []byte("garbage")), keyring.ErrAnswer},
		{"for another recipient", set("CiphertextForRecipient", testkit.Seal(&stranger.PublicKey, make([]byte, 32)).BER()), keyring.ErrAnswer},
	} {
		t.Run(tc.name, func(t *testing.T) {
			r.kms.Change = func(_ string, status int, a map[string]any) (int, map[string]any) { tc.change(a); return status, a }
			key, blob, err := k.NewDataKey(t.Context(), functionContext())
			if !errors.Is(err, tc.want) || key.Len() != 0 || blob != nil {
				t.Errorf("NewDataKey: %v", err)
			}
			if key, err := k.OpenDataKey(t.Context(), data, functionContext()); !errors.Is(err, tc.want) || key.Len() != 0 {
				t.Errorf("OpenDataKey: %v", err)
			}
			if key, blob, err := k.NewKeyPair(t.Context(), keyContext()); !errors.Is(err, tc.want) || key != nil || blob != nil {
				t.Errorf("NewKeyPair: %v", err)
			}
		})
	}
	for name, b := range map[string][]byte{"no blob": nil, "blob too large": make([]byte, wire.MaxWrapped+1)} {
		r.kms.Change = func(_ string, status int, a map[string]any) (int, map[string]any) {
			a["CiphertextBlob"], a["PrivateKeyCiphertextBlob"] = b, b
			return status, a
		}
		key, _, err1 := k.NewDataKey(t.Context(), functionContext())
		pair, _, err2 := k.NewKeyPair(t.Context(), keyContext())
		if !errors.Is(err1, keyring.ErrAnswer) || !errors.Is(err2, keyring.ErrAnswer) || key.Len() != 0 || pair != nil {
			t.Errorf("%s: %v, %v", name, err1, err2)
		}
	}
	r.kms.Change = func(_ string, status int, a map[string]any) (int, map[string]any) {
		a["Padding"] = strings.Repeat("x", 1<<20)
		return status, a
	}
	if _, _, err := k.NewDataKey(t.Context(), functionContext()); !errors.Is(err, keyring.ErrUnavailable) {
		t.Errorf("an answer of 1 MiB: %v", err)
	}
	r.kms.Change = nil
	if _, err := k.OpenDataKey(t.Context(), data, functionContext()); err != nil {
		t.Errorf("the next call: %v", err)
	}
}

// A data key of another size is not taken, though it was encrypted to this enclave.
func TestDataKeySize(t *testing.T) {
	r := newRig(t)
	k := r.keyring(t)
	for _, n := range []int{0, 16, 31, 33, 64} {
		_, pub := r.recipient(t, k)
		r.kms.Change = func(_ string, status int, a map[string]any) (int, map[string]any) {
			a["CiphertextForRecipient"] = testkit.Seal(pub, make([]byte, n)).BER()
			return status, a
		}
		if key, _, err := k.NewDataKey(t.Context(), functionContext()); !errors.Is(err, keyring.ErrAnswer) || key.Len() != 0 {
			t.Errorf("%d bytes: %v", n, err)
		}
		r.kms.Change = nil
	}
}

// recipient returns the document that k sends, and the key in it.
func (r *rig) recipient(t *testing.T, k *keyring.Keyring) ([]byte, *rsa.PublicKey) {
	t.Helper()
	if _, _, err := k.NewDataKey(t.Context(), functionContext()); err != nil {
		t.Fatal(err)
	}
	calls := r.kms.Calls()
	doc := testkit.Document(calls[len(calls)-1])
	pub, err := testkit.PublicKey(doc)
	if err != nil {
		t.Fatal(err)
	}
	return doc, pub
}

func TestErrorClasses(t *testing.T) {
	r := newRig(t)
	k := r.keyring(t)
	for code, want := range map[string]error{
		"AccessDeniedException": keyring.ErrDenied, "UnrecognizedClientException": keyring.ErrDenied, "ExpiredTokenException": keyring.ErrDenied,
		"NotFoundException": keyring.ErrNoKey, "InvalidCiphertextException": keyring.ErrWrapped, "IncorrectKeyException": keyring.ErrWrapped,
		"DisabledException": keyring.ErrKeyState, "KMSInvalidStateException": keyring.ErrKeyState, "ValidationException": keyring.ErrRefused,
		"SomethingNew": keyring.ErrRefused,
	} {
		r.kms.Change = func(string, int, map[string]any) (int, map[string]any) {
			return http.StatusBadRequest, map[string]any{"__type": code, "message": "no"}
		}
		before := len(r.kms.Calls())
		if _, err := k.OpenDataKey(t.Context(), []byte("b"), functionContext()); !errors.Is(err, want) {
			t.Errorf("%s: %v", code, err)
		}
		if n := len(r.kms.Calls()) - before; n != 1 {
			t.Errorf("%s: asked %d times", code, n)
		}
	}
}

func TestRetriesAreBounded(t *testing.T) {
	r := newRig(t)
	k := r.keyring(t)
	failures := 0
	r.kms.Change = func(_ string, status int, a map[string]any) (int, map[string]any) {
		if failures--; failures >= 0 {
			return http.StatusInternalServerError, map[string]any{"__type": "KMSInternalException", "message": "no"}
		}
		return status, a
	}
	failures = 2
	if _, _, err := k.NewDataKey(t.Context(), functionContext()); err != nil {
		t.Errorf("two failures: %v", err)
	}
	failures = 100
	before := len(r.kms.Calls())
	if _, _, err := k.NewDataKey(t.Context(), functionContext()); !errors.Is(err, keyring.ErrUnavailable) {
		t.Errorf("failures: %v", err)
	}
	if n := len(r.kms.Calls()) - before; n != 3 {
		t.Errorf("asked %d times", n)
	}
}

func TestUnreachable(t *testing.T) {
	r := newRig(t)
	ctx, cancel := context.WithCancel(t.Context())
	r.cfg.HTTP = keyring.NewHTTPClient(func(ctx context.Context, _, _ string) (net.Conn, error) {
		cancel()
		<-ctx.Done()
		return nil, ctx.Err()
	}, r.kms.Roots())
	_, _, err := r.keyring(t).NewDataKey(ctx, functionContext())
	if !errors.Is(err, keyring.ErrUnavailable) || !errors.Is(err, context.Canceled) {
		t.Errorf("cancelled: %v", err)
	}
	r.cfg.HTTP = keyring.NewHTTPClient((&net.Dialer{}).DialContext, x509.NewCertPool())
	if _, err := r.keyring(t).Inspect(t.Context()); !errors.Is(err, keyring.ErrUnavailable) {
		t.Errorf("another root: %v", err)
	}
	if n := len(r.kms.Calls()); n != 0 {
		t.Errorf("%d requests arrived", n)
	}
}

func TestNoDocument(t *testing.T) {
	r := newRig(t)
	k := r.keyring(t)
	r.module.Answer = func([]byte) ([]byte, error, bool) { return nil, nsm.ErrTransport, true }
	_, _, err := k.NewDataKey(t.Context(), functionContext())
	if !errors.Is(err, keyring.ErrAttest) || !errors.Is(err, nsm.ErrTransport) {
		t.Errorf("got %v", err)
	}
	if n := len(r.kms.Calls()); n != 0 {
		t.Errorf("%d requests without a document", n)
	}
}
