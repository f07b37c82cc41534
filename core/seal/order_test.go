package seal_test

import (
	"errors"
	"testing"

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
	other, err := seal.NewCaller(route)
	if err != nil {
		t.Fatal(err)
	}
	evidence, err := attest.Verify(nil, e.Sign(other.Nonce(), e.ReceiptSPKI(), []byte("x")), e.Accepts(other.Nonce()), at)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := c.Bind(evidence, e.Authority.Root); !errors.Is(err, seal.ErrBinding) {
		t.Errorf("evidence of another document: %v", err)
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
	if _, _, err := r.Open(frame[1:]); !errors.Is(err, seal.ErrOpen) {
		t.Errorf("a broken open: %v", err)
	}
	if _, _, err := r.Open(frame); !errors.Is(err, seal.ErrOrder) {
		t.Errorf("the sound open after a broken one: %v", err)
	}
	early, err := seal.NewResponder(c.Hello(), route)
	if err != nil {
		t.Fatal(err)
	}
	if _, _, err := early.Open(frame); !errors.Is(err, seal.ErrOrder) {
		t.Errorf("open before attest: %v", err)
	}
}
