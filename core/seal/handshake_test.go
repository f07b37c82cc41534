package seal_test

import (
	"bytes"
	"crypto/sha256"
	"errors"
	"testing"
	"time"

	"github.com/cape-functions/cape/core/account"
	"github.com/cape-functions/cape/core/attest"
	"github.com/cape-functions/cape/core/keypolicy"
	"github.com/cape-functions/cape/core/seal"
	"github.com/cape-functions/cape/core/seal/testkit"
	"github.com/cape-functions/cape/core/secret"
	"github.com/cape-functions/cape/core/wire"
)

const route = "/v1/run/2222222222222222222222"

var at = time.Date(2026, 3, 4, 5, 6, 7, 0, time.UTC)

// both is a session with both of its ends.
type both struct {
	attested *seal.Attested
	opened   *seal.Opened
	caller   *seal.Channel
	enclave  *seal.Channel
	notary   *seal.Notary
}

func bind(t testing.TB, e *testkit.Enclave, c *seal.Caller, message []byte) (*seal.Attested, error) {
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

func connect(t testing.TB, o seal.Opening, kems ...wire.KEM) *both {
	t.Helper()
	e := testkit.NewEnclave(at)
	c, err := seal.NewCaller(route, kems...)
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
	var b both
	if b.attested, err = bind(t, e, c, message); err != nil {
		t.Fatal(err)
	}
	frame, channel, err := c.Open(o)
	if err != nil {
		t.Fatal(err)
	}
	b.caller = channel
	if b.opened, b.enclave, err = r.Open(frame); err != nil {
		t.Fatal(err)
	}
	if b.notary, err = seal.NewNotary(r, e.ReceiptKey); err != nil {
		t.Fatal(err)
	}
	return &b
}

func TestHandshake(t *testing.T) {
	key, err := account.New()
	if err != nil {
		t.Fatal(err)
	}
	seq := uint64(7)
	sum := sha256.Sum256([]byte("zip"))
	for name, kems := range map[string][]wire.KEM{
		"X-Wing": nil, "X25519": {wire.KEMX25519}, "both": {wire.KEMX25519, wire.KEMXWing}, "with an unknown one": {0x0011, wire.KEMX25519},
	} {
		b := connect(t, seal.Opening{Token: secret.New([]byte("token")), Key: key, Grant: []byte("grant"), Expect: wire.Expect{Fn: sum[:], Seq: &seq}}, kems...)
		o := b.opened
		if string(o.Token.Reveal()) != "token" || *o.Acct != key.ID() || *o.Key != key.Public() || string(o.Grant) != "grant" || *o.Expect.Seq != 7 || !bytes.Equal(o.Expect.Fn, sum[:]) {
			t.Errorf("%s: opened %+v", name, o)
		}
		if b.caller.Transcript != b.enclave.Transcript {
			t.Errorf("%s: transcripts differ", name)
		}
		for i := range 3 {
			for _, way := range []struct {
				out *seal.Sealer
				in  *seal.Opener
			}{{b.caller.Out, b.enclave.In}, {b.enclave.Out, b.caller.In}} {
				record := []byte{byte(wire.RecordData), 1, byte(i)}
				frame, err := way.out.Seal(bytes.Clone(record))
				if err != nil {
					t.Fatal(err)
				}
				got, err := way.in.Open(frame)
				if err != nil || !bytes.Equal(got, record) {
					t.Errorf("%s: record %d: %x, %v", name, i, got, err)
				}
			}
		}
	}
	if b := connect(t, seal.Opening{}); b.opened.Token.Len() != 0 || b.opened.Acct != nil || b.opened.Grant != nil {
		t.Errorf("an empty opening became %+v", b.opened)
	}
}

// rewrite answers a hello that the host changed, and returns what the caller says.
func rewrite(t *testing.T, change func(*wire.Hello), kems ...wire.KEM) error {
	t.Helper()
	e := testkit.NewEnclave(at)
	c, err := seal.NewCaller(route, kems...)
	if err != nil {
		t.Fatal(err)
	}
	h, err := wire.ParseHello(c.Hello())
	if err != nil {
		t.Fatal(err)
	}
	change(h)
	hello, err := h.Encode()
	if err != nil {
		t.Fatal(err)
	}
	r, err := seal.NewResponder(hello, h.Route)
	if err != nil {
		t.Fatal(err)
	}
	message, err := e.Answer(r)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := bind(t, e, c, message); err != nil {
		return err
	}
	frame, _, err := c.Open(seal.Opening{Token: secret.New([]byte("token"))})
	if err != nil {
		t.Fatal(err)
	}
	_, _, err = r.Open(frame)
	return err
}

// A hello that the host rewrote is found before anything secret is sent, or, where the
// document does not show it, by the transcript: what was sent opens for nobody.
func TestRewrittenHello(t *testing.T) {
	both := []wire.KEM{wire.KEMXWing, wire.KEMX25519}
	if err := rewrite(t, func(h *wire.Hello) { h.KEMs = h.KEMs[1:] }, both...); !errors.Is(err, seal.ErrKEM) {
		t.Errorf("X-Wing stripped: %v", err)
	}
	if err := rewrite(t, func(h *wire.Hello) { h.Nonce = bytes.Repeat([]byte{1}, 32) }, both...); !errors.Is(err, attest.ErrNonce) {
		t.Errorf("another nonce: %v", err)
	}
	if err := rewrite(t, func(h *wire.Hello) { h.Route = "/v1/run/bob/other" }, both...); !errors.Is(err, seal.ErrOpen) {
		t.Errorf("another route, and a host that serves it: %v", err)
	}
	if err := rewrite(t, func(h *wire.Hello) { h.KEMs = append(h.KEMs, 0x11) }, both...); !errors.Is(err, seal.ErrOpen) {
		t.Errorf("one more key exchange: %v", err)
	}
	if err := rewrite(t, func(*wire.Hello) {}, both...); err != nil {
		t.Errorf("nothing changed: %v", err)
	}
}

func BenchmarkHandshake(b *testing.B) {
	e, births := testkit.NewEnclave(at), &keypolicy.Births{}
	for b.Loop() {
		c, err := seal.NewCaller(route)
		if err != nil {
			b.Fatal(err)
		}
		c.Births = births
		r, err := seal.NewResponder(c.Hello(), route)
		if err != nil {
			b.Fatal(err)
		}
		message, err := e.Answer(r)
		if err != nil {
			b.Fatal(err)
		}
		if _, err := bind(b, e, c, message); err != nil {
			b.Fatal(err)
		}
		frame, _, err := c.Open(seal.Opening{})
		if err != nil {
			b.Fatal(err)
		}
		if _, _, err := r.Open(frame); err != nil {
			b.Fatal(err)
		}
	}
}
