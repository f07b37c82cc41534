package seal_test

import (
	"bytes"
	"crypto/sha256"
	"errors"
	"testing"

	"github.com/cape-functions/cape/core/attest"
	"github.com/cape-functions/cape/core/seal"
	"github.com/cape-functions/cape/core/seal/testkit"
	"github.com/cape-functions/cape/core/wire"
)

func TestCapeKeys(t *testing.T) {
	acct, other, spki := sha256.Sum256([]byte("acct")), sha256.Sum256([]byte("other")), []byte("spki")
	for _, tc := range []struct {
		name string
		of   wire.KeyOf
		acct []byte
		lie  func(*testkit.Enclave, []byte) ([]byte, error)
		want error
	}{
		{name: "by account", of: wire.KeyOf{Acct: acct[:]}, acct: acct[:]},
		{name: "by user", of: wire.KeyOf{User: "alice"}, acct: acct[:]},
		{name: "legacy", of: wire.KeyOf{User: "alice"}},
		{name: "another account's key", of: wire.KeyOf{Acct: acct[:]}, acct: other[:], want: seal.ErrBinding},
		{name: "a legacy key for an account", of: wire.KeyOf{Acct: acct[:]}, lie: func(e *testkit.Enclave, hello []byte) ([]byte, error) {
			return answerAs(e, hello, wire.KeyOf{User: "alice"}, nil, spki)
		}, want: seal.ErrBinding},
		{name: "another user's key", of: wire.KeyOf{User: "alice"}, lie: func(e *testkit.Enclave, hello []byte) ([]byte, error) {
			return answerAs(e, hello, wire.KeyOf{User: "bob"}, acct[:], spki)
		}, want: seal.ErrBinding},
		{name: "another key beside the document", of: wire.KeyOf{User: "alice"}, lie: func(e *testkit.Enclave, hello []byte) ([]byte, error) {
			message, err := e.AnswerKey(hello, spki, acct[:])
			if err != nil {
				return nil, err
			}
			a, err := wire.ParseKeyAttest(message)
			if err != nil {
				return nil, err
			}
			a.SPKI = []byte("the host's")
			return a.Encode()
		}, want: seal.ErrBinding},
		{name: "no inspected key", of: wire.KeyOf{User: "alice"}, lie: func(e *testkit.Enclave, hello []byte) ([]byte, error) {
			e.Policy, e.Birth = []byte{}, nil
			return e.AnswerKey(hello, spki, acct[:])
		}, want: seal.ErrTrust},
	} {
		e := testkit.NewEnclave(at)
		c, err := seal.NewKeyCaller("/v1/key", tc.of)
		if err != nil {
			t.Fatal(err)
		}
		answer := func(e *testkit.Enclave, hello []byte) ([]byte, error) { return e.AnswerKey(hello, spki, tc.acct) }
		if tc.lie != nil {
			answer = tc.lie
		}
		message, err := answer(e, c.Hello())
		if err != nil {
			t.Fatal(tc.name, err)
		}
		got, err := bindKey(t, e, c, message)
		if !errors.Is(err, tc.want) {
			t.Errorf("%s: %v", tc.name, err)
		}
		if err == nil && (!bytes.Equal(got.Acct, tc.acct) || !bytes.Equal(got.SPKI, spki)) {
			t.Errorf("%s: %+v", tc.name, got)
		}
	}
}

// answerAs answers as if the hello had asked for somebody else.
func answerAs(e *testkit.Enclave, hello []byte, of wire.KeyOf, acct, spki []byte) ([]byte, error) {
	h, err := wire.ParseHello(hello)
	if err != nil {
		return nil, err
	}
	h.Of = &of
	other, err := h.Encode()
	if err != nil {
		return nil, err
	}
	return e.AnswerKey(other, spki, acct)
}

func bindKey(t *testing.T, e *testkit.Enclave, c *seal.KeyCaller, message []byte) (*seal.AttestedKey, error) {
	t.Helper()
	a, err := c.Receive(message)
	if err != nil {
		return nil, err
	}
	evidence, err := attest.Verify(nil, a.Document, e.Accepts(c.Nonce()), at)
	if err != nil {
		return nil, err
	}
	return c.Bind(evidence, e.Authority.Root)
}

// A session's document is no key's, nor the other way.
func TestDocumentsOfOtherUses(t *testing.T) {
	e := testkit.NewEnclave(at)
	c, err := seal.NewKeyCaller("/v1/key", wire.KeyOf{User: "alice"})
	if err != nil {
		t.Fatal(err)
	}
	claim, err := seal.KeyClaim(&wire.Hello{Use: wire.UseKey, Of: &wire.KeyOf{User: "alice"}}, nil, []byte("spki"), e.Config, e.Policy, nil)
	if err != nil {
		t.Fatal(err)
	}
	a := wire.KeyAttest{Document: e.Sign(c.Nonce(), e.ReceiptSPKI(), claim), Config: e.Config, Policy: e.Policy, Birth: e.Birth, SPKI: []byte("spki")}
	message, err := a.Encode()
	if err != nil {
		t.Fatal(err)
	}
	if _, err := bindKey(t, e, c, message); !errors.Is(err, seal.ErrBinding) {
		t.Errorf("a key's document with a public key: %v", err)
	}
	if _, err := seal.KeyClaim(&wire.Hello{Use: wire.UseSession}, nil, nil, nil, nil, nil); !errors.Is(err, seal.ErrUse) {
		t.Errorf("a key's claim for a session: %v", err)
	}
}

func TestKeyStepsInOrder(t *testing.T) {
	e := testkit.NewEnclave(at)
	c, err := seal.NewKeyCaller("/v1/key", wire.KeyOf{User: "alice"})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := c.Bind(&attest.Evidence{}); !errors.Is(err, seal.ErrOrder) {
		t.Errorf("bound before anything came: %v", err)
	}
	message, err := e.AnswerKey(c.Hello(), []byte("spki"), nil)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := c.Receive(message); err != nil {
		t.Fatal(err)
	}
	if _, err := c.Receive(message); !errors.Is(err, seal.ErrOrder) {
		t.Errorf("a second answer: %v", err)
	}
}
