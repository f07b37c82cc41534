package hostilehost

import (
	"bytes"
	"errors"
	"testing"

	"github.com/cape-functions/cape/core/attest"
	"github.com/cape-functions/cape/core/seal"
	"github.com/cape-functions/cape/core/wire"
)

// TestRewrittenHandshakes: what the network changes between a caller and the
// real runtime ends before a session does.
func TestRewrittenHandshakes(t *testing.T) {
	o := newOperator(t)
	alice, mallory := o.person("alice"), o.person("mallory")
	id := o.deploy(alice, "echo", echo, nil)
	other := o.deploy(mallory, "echo", echo, nil)
	var recorded []byte // a genuine attest for somebody else
	for _, tc := range []struct {
		name string
		with func(*relay)
		want error  // that the caller finds
		code string // or that the enclave told
	}{
		{"nothing", func(r *relay) {
			r.frame = func(direction string, n int, frame []byte) [][]byte {
				if direction == down && n == 0 {
					recorded = bytes.Clone(frame)
				}
				return [][]byte{frame}
			}
		}, nil, ""},
		{"the caller is sent to another function", func(r *relay) {
			r.path = func(string) string { return "/v1/run/" + other }
		}, nil, wire.CodeInvalidRequest},
		{"the same, with the hello rewritten to fit", func(r *relay) {
			r.path = func(string) string { return "/v1/run/" + other }
			r.frame = hello(func(h *wire.Hello) { h.Route = "/v1/run/" + other })
		}, seal.ErrRecord, ""},
		{"X-Wing taken from the hello", func(r *relay) {
			r.frame = hello(func(h *wire.Hello) { h.KEMs = []wire.KEM{wire.KEMX25519} })
		}, seal.ErrKEM, ""},
		{"another nonce in the hello", func(r *relay) {
			r.frame = hello(func(h *wire.Hello) { h.Nonce = make([]byte, wire.NonceSize) })
		}, attest.ErrNonce, ""},
		{"one more key exchange in the hello", func(r *relay) {
			r.frame = hello(func(h *wire.Hello) { h.KEMs = append(h.KEMs, wire.KEMX25519) })
		}, seal.ErrRecord, ""},
		{"a genuine old document", func(r *relay) {
			r.frame = func(direction string, n int, frame []byte) [][]byte {
				if direction == down && n == 0 {
					return [][]byte{recorded}
				}
				return [][]byte{frame}
			}
		}, attest.ErrNonce, ""},
		{"a session key of the operator's beside a genuine document", func(r *relay) {
			r.frame = func(direction string, n int, frame []byte) [][]byte {
				a, err := wire.ParseAttest(frame)
				if direction == up || n != 0 || err != nil {
					return [][]byte{frame}
				}
				a.PublicKey = bytes.Repeat([]byte{9}, len(a.PublicKey))
				out, err := a.Encode()
				if err != nil {
					t.Error(err)
				}
				return [][]byte{out}
			}
		}, seal.ErrBinding, ""},
		{"an error in place of the attest", func(r *relay) {
			r.frame = func(direction string, n int, frame []byte) [][]byte {
				out, err := wire.EncodeRefusal(wire.CodeUnavailable, "use protocol v1")
				if direction == up || n != 0 || err != nil {
					return [][]byte{frame}
				}
				return [][]byte{out}
			}
		}, nil, wire.CodeUnavailable},
	} {
		t.Run(tc.name, func(t *testing.T) {
			r := newRelay(t, o.p.URL)
			tc.with(r)
			c, err := connect(t, r.URL, "/v1/run/"+id, o.believed, opening(alice.token, alice.key))
			if err == nil {
				_, _, err = c.invoke([]byte("an input that nobody sees"))
			}
			switch {
			case !errors.Is(err, tc.want) && tc.want != nil, code(err) != tc.code, tc.want == nil && tc.code == "" && err != nil:
				t.Errorf("%v, want %v or code %q", err, tc.want, tc.code)
			}
			if bytes.Contains(r.sent(), []byte(alice.token)) || bytes.Contains(r.sent(), []byte("an input that nobody sees")) {
				t.Error("the network saw the token or the input")
			}
		})
	}
}
