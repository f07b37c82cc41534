package seal_test

import (
	"bytes"
	"errors"
	"testing"
	"time"

	"github.com/cape-functions/cape/core/attest"
	"github.com/cape-functions/cape/core/seal"
	"github.com/cape-functions/cape/core/seal/testkit"
	"github.com/cape-functions/cape/core/wire"
)

func TestHelloOfAnotherRouteOrUse(t *testing.T) {
	c, err := seal.NewCaller(route)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := seal.NewResponder(c.Hello(), "/v1/run/other"); !errors.Is(err, seal.ErrRoute) {
		t.Errorf("another route: %v", err)
	}
	k, err := seal.NewKeyCaller("/v1/key", wire.KeyOf{User: "alice"})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := seal.NewResponder(k.Hello(), "/v1/key"); !errors.Is(err, seal.ErrUse) {
		t.Errorf("a hello for a key: %v", err)
	}
	if _, err := seal.NewCaller(route, 0x11); !errors.Is(err, seal.ErrKEM) {
		t.Errorf("a caller without a key exchange: %v", err)
	}
	unknown := wire.Hello{V: 2, Use: wire.UseSession, Nonce: make([]byte, 32), KEMs: []wire.KEM{0x11}, Route: route}
	hello, err := unknown.Encode()
	if err != nil {
		t.Fatal(err)
	}
	if _, err := seal.NewResponder(hello, route); !errors.Is(err, seal.ErrKEM) {
		t.Errorf("a hello without a known key exchange: %v", err)
	}
}

func TestStepsInOrder(t *testing.T) {
	e := testkit.NewEnclave(at)
	c, err := seal.NewCaller(route)
	if err != nil {
		t.Fatal(err)
	}
	if _, _, err := c.Open(seal.Opening{}); !errors.Is(err, seal.ErrOrder) {
		t.Errorf("open before receive: %v", err)
	}
	if _, err := c.Bind(&attest.Evidence{}); !errors.Is(err, seal.ErrOrder) {
		t.Errorf("bind before receive: %v", err)
	}
	r, err := seal.NewResponder(c.Hello(), route)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := seal.NewNotary(r, e.ReceiptKey); !errors.Is(err, seal.ErrOrder) {
		t.Errorf("receipts before attest: %v", err)
	}
	message, err := e.Answer(r)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := e.Answer(r); !errors.Is(err, seal.ErrOrder) {
		t.Errorf("a second attest: %v", err)
	}
	if _, err := c.Receive(message); err != nil {
		t.Fatal(err)
	}
	if _, _, err := c.Open(seal.Opening{}); !errors.Is(err, seal.ErrOrder) {
		t.Errorf("open before bind: %v", err)
	}
	if _, err := c.Receive(message); !errors.Is(err, seal.ErrOrder) {
		t.Errorf("a second attest received: %v", err)
	}
	a, err := wire.ParseAttest(message)
	if err != nil {
		t.Fatal(err)
	}
	evidence, err := attest.Verify(nil, a.Document, e.Accepts(c.Nonce()), at)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := c.Bind(evidence, e.Authority.Root); err != nil {
		t.Fatal(err)
	}
	if _, err := c.Bind(evidence, e.Authority.Root); !errors.Is(err, seal.ErrOrder) {
		t.Errorf("bound twice: %v", err)
	}
	if _, _, err := c.Open(seal.Opening{}); err != nil {
		t.Fatal(err)
	}
	if _, err := c.Bind(evidence, e.Authority.Root); !errors.Is(err, seal.ErrOrder) {
		t.Errorf("bound after open: %v", err)
	}
}

// Evidence is of the very document that came, and for the caller's own nonce, whatever the
// policy was under which it was verified.
func TestEvidenceOfAnotherDocument(t *testing.T) {
	e := testkit.NewEnclave(at)
	c, err := seal.NewCaller(route)
	if err != nil {
		t.Fatal(err)
	}
	r, err := seal.NewResponder(c.Hello(), route)
	if err != nil {
		t.Fatal(err)
	}
	message, err := e.Answer(r)
	if err != nil {
		t.Fatal(err)
	}
	claim, err := r.Claim(e.Config, e.Policy, e.TLS)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := c.Receive(message); err != nil {
		t.Fatal(err)
	}
	e.At = at.Add(time.Second) // the same claim in another document
	evidence, err := attest.Verify(nil, e.Sign(c.Nonce(), e.ReceiptSPKI(), claim), e.Accepts(c.Nonce()), at)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := c.Bind(evidence, e.Authority.Root); !errors.Is(err, seal.ErrBinding) {
		t.Errorf("another document with the same claim: %v", err)
	}
}

func TestEvidenceForAnotherNonce(t *testing.T) {
	e := testkit.NewEnclave(at)
	c, err := seal.NewCaller(route)
	if err != nil {
		t.Fatal(err)
	}
	h, err := wire.ParseHello(c.Hello())
	if err != nil {
		t.Fatal(err)
	}
	h.Nonce = bytes.Repeat([]byte{1}, wire.NonceSize)
	hello, err := h.Encode()
	if err != nil {
		t.Fatal(err)
	}
	r, err := seal.NewResponder(hello, route)
	if err != nil {
		t.Fatal(err)
	}
	message, err := e.Answer(r)
	if err != nil {
		t.Fatal(err)
	}
	a, err := c.Receive(message)
	if err != nil {
		t.Fatal(err)
	}
	accept := e.Accepts(nil)
	accept.NonceNotChecked = true
	evidence, err := attest.Verify(nil, a.Document, accept, at)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := c.Bind(evidence, e.Authority.Root); !errors.Is(err, seal.ErrBinding) {
		t.Errorf("a document for another nonce: %v", err)
	}
}

func TestOneOpenAConnection(t *testing.T) {
	e := testkit.NewEnclave(at)
	c, err := seal.NewCaller(route)
	if err != nil {
		t.Fatal(err)
	}
	r, err := seal.NewResponder(c.Hello(), route)
	if err != nil {
		t.Fatal(err)
	}
	message, err := e.Answer(r)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := bind(t, e, c, message); err != nil {
		t.Fatal(err)
	}
	frame, _, err := c.Open(seal.Opening{})
	if err != nil {
		t.Fatal(err)
	}
	if _, _, err := c.Open(seal.Opening{}); !errors.Is(err, seal.ErrOrder) {
		t.Errorf("a second open of the caller's: %v", err)
	}
	if _, _, err := r.Open(append(frame, make([]byte, wire.MaxOpen)...)); !errors.Is(err, wire.ErrMalformed) {
		t.Errorf("an open that is too large: %v", err)
	}
	if _, _, err := r.Open(frame); !errors.Is(err, seal.ErrOrder) {
		t.Errorf("the sound open after another: %v", err)
	}
	early, err := seal.NewResponder(c.Hello(), route)
	if err != nil {
		t.Fatal(err)
	}
	if _, _, err := early.Open(frame); !errors.Is(err, seal.ErrOrder) {
		t.Errorf("open before attest: %v", err)
	}
}
