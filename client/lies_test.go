package client_test

import (
	"bytes"
	"crypto/sha256"
	"errors"
	"testing"
	"time"

	"github.com/cape-functions/cape/client"
	"github.com/cape-functions/cape/client/testkit"
	"github.com/cape-functions/cape/client/trust"
	"github.com/cape-functions/cape/core/attest"
	"github.com/cape-functions/cape/core/attest/nitro"
	attestkit "github.com/cape-functions/cape/core/attest/testkit"
	"github.com/cape-functions/cape/core/wire"
)

// TestLies: nothing is sent to, and nothing believed of, a server that lies.
func TestLies(t *testing.T) {
	flip := func(b []byte) { b[len(b)-1] ^= 1 }
	stranger := attestkit.NewAuthority("stranger", time.Now())
	for _, tc := range []struct {
		name string
		lie  func(*testkit.Lies)
		want []error
		sent bool // the input was sent: the lie is in the result
	}{
		{"foreign root", func(l *testkit.Lies) { l.Authority = stranger }, []error{client.ErrAttestation, attest.ErrRoot}, false},
		{"wrong nonce", func(l *testkit.Lies) { l.Document = func(_ string, d *nitro.Document) { flip(d.Nonce) } }, []error{client.ErrAttestation, attest.ErrNonce}, false},
		{"no nonce", func(l *testkit.Lies) { l.Document = func(_ string, d *nitro.Document) { d.Nonce = nil } }, []error{client.ErrAttestation, attest.ErrNonce}, false},
		{"wrong PCR", func(l *testkit.Lies) {
			l.Document = func(_ string, d *nitro.Document) { d.PCRs[2] = attestkit.PCR(9) }
		}, []error{client.ErrAttestation, attest.ErrPCR}, false},
		{"PCR missing", func(l *testkit.Lies) { l.Document = func(_ string, d *nitro.Document) { delete(d.PCRs, 16) } }, []error{client.ErrAttestation, attest.ErrPCR}, false},
		{"debug mode", func(l *testkit.Lies) {
			l.Document = func(_ string, d *nitro.Document) {
				d.PCRs[0], d.PCRs[1], d.PCRs[2] = nitro.PCR{}, nitro.PCR{}, nitro.PCR{}
			}
		}, []error{client.ErrAttestation, attest.ErrDebug}, false},
		{"old document", func(l *testkit.Lies) {
			l.Document = func(_ string, d *nitro.Document) { d.Timestamp = d.Timestamp.Add(-90 * time.Minute) }
		}, []error{client.ErrAttestation, attest.ErrTime}, false},
		{"altered document", func(l *testkit.Lies) { l.Signed = func(b []byte) []byte { flip(b); return b } }, []error{client.ErrAttestation, attest.ErrSignature}, false},
		{"garbage document", func(l *testkit.Lies) { l.Signed = func([]byte) []byte { return []byte("garbage") } }, []error{client.ErrAttestation, attest.ErrMalformed}, false},
		{"no session key", func(l *testkit.Lies) { l.Document = func(_ string, d *nitro.Document) { d.PublicKey = nil } }, []error{client.ErrAttestation, attest.ErrField}, false},
		{"no user data", func(l *testkit.Lies) { l.Document = func(_ string, d *nitro.Document) { d.UserData = nil } }, []error{client.ErrAttestation, attest.ErrField}, false},
		{"no function checksum", func(l *testkit.Lies) { l.UserData = func(_ string, u *wire.UserDataV1) { u.FuncChecksum = nil } }, []error{client.ErrAttestation, attest.ErrField}, false},
		{"key never inspected", func(l *testkit.Lies) { l.UserData = func(_ string, u *wire.UserDataV1) { u.KeyChecksum = nil } }, []error{client.ErrAttestation, attest.ErrField}, false},
		{"other key policy", func(l *testkit.Lies) {
			l.UserData = func(_ string, u *wire.UserDataV1) { u.KeyChecksum = make([]byte, 32) }
		}, []error{client.ErrTrust}, false},
		{"no signing key", func(l *testkit.Lies) { l.UserData = func(_ string, u *wire.UserDataV1) { u.SignatureKey = nil } }, []error{client.ErrAttestation, attest.ErrField}, false},
		{"other function", func(l *testkit.Lies) {
			l.UserData = func(_ string, u *wire.UserDataV1) { u.FuncChecksum = make([]byte, 32) }
		}, []error{client.ErrChecksum}, false},
		{"no subprotocol", func(l *testkit.Lies) { l.NoSubprotocol = true }, []error{client.ErrProtocol}, false},
		{"garbage frame", func(l *testkit.Lies) { l.Frame = func(string, []byte) []byte { return []byte("{") } }, []error{client.ErrProtocol}, false},
		{"frame without message", func(l *testkit.Lies) { l.Frame = func(string, []byte) []byte { return []byte("{}") } }, []error{client.ErrProtocol}, false},
		{"flood before the document", func(l *testkit.Lies) {
			l.Frame = func(string, []byte) []byte { return bytes.Repeat([]byte("a"), 1<<20) }
		}, []error{client.ErrTooLarge}, false},
		{"document of another type", func(l *testkit.Lies) {
			l.Frame = func(_ string, f []byte) []byte {
				return bytes.Replace(f, []byte(wire.TypeAttestation), []byte("something"), 1)
			}
		}, []error{client.ErrProtocol}, false},
		{"output altered", func(l *testkit.Lies) { l.Result = func(r *wire.ResultV1) { r.Message = []byte("other") } }, []error{client.ErrChecksum}, true},
		{"output and checksum altered", func(l *testkit.Lies) {
			l.Result = func(r *wire.ResultV1) {
				sum := sha256.Sum256([]byte("other"))
				r.Message, r.Checksums.Output = []byte("other"), sum[:]
			}
		}, []error{client.ErrChecksum}, true},
		{"signature stripped", func(l *testkit.Lies) { l.Result = func(r *wire.ResultV1) { r.SignedChecksums = nil } }, []error{client.ErrChecksum}, true},
		{"signature altered", func(l *testkit.Lies) { l.Result = func(r *wire.ResultV1) { flip(r.SignedChecksums) } }, []error{client.ErrChecksum}, true},
		{"checksums stripped", func(l *testkit.Lies) { l.Result = func(r *wire.ResultV1) { r.Checksums = wire.ChecksumsV1{} } }, []error{client.ErrChecksum}, true},
		{"signed for another input", func(l *testkit.Lies) { l.Sign = func(r *wire.ResultV1) { r.Checksums.Input = make([]byte, 32) } }, []error{client.ErrChecksum}, true},
		{"signed for another function", func(l *testkit.Lies) { l.Sign = func(r *wire.ResultV1) { r.Checksums.Function = make([]byte, 32) } }, []error{client.ErrChecksum}, true},
		{"signed for another output", func(l *testkit.Lies) { l.Sign = func(r *wire.ResultV1) { r.Checksums.Output = make([]byte, 32) } }, []error{client.ErrChecksum}, true},
		{"result of another type", func(l *testkit.Lies) { l.Result = func(r *wire.ResultV1) { r.Type = "log" } }, []error{client.ErrProtocol}, true},
	} {
		t.Run(tc.name, func(t *testing.T) {
			s := testkit.New(t)
			called := false
			f := s.Add(testkit.Function{User: "ann", Name: "f", Zip: []byte("zip"), Handler: func(in []byte) ([]byte, error) { called = true; return in, nil }})
			s.Lie(tc.lie)
			sum := sha256.Sum256([]byte("zip"))
			r, err := connect(t, s).Run(t.Context(), client.Function{Name: f.ID, Checksum: sum[:]}, []byte("input"))
			for _, want := range tc.want {
				if !errors.Is(err, want) {
					t.Errorf("error %v, want %v", err, want)
				}
			}
			if r != nil {
				t.Error("a result was given out")
			}
			if called != tc.sent {
				t.Errorf("input sent: %t, want %t", called, tc.sent)
			}
		})
	}
}

func TestZeroPolicyAcceptsNothing(t *testing.T) {
	s := testkit.New(t)
	f := s.Add(testkit.Function{User: "ann", Name: "f", Zip: []byte("zip")})
	good := policyOf(s)
	for name, judge := range map[string]trust.Judge{
		"none":                      nil,
		"zero":                      trust.Policy{},
		"no roots":                  trust.Policy{PCRs: good.PCRs, KeyPolicies: good.KeyPolicies},
		"no measurements":           trust.Policy{Roots: good.Roots, KeyPolicies: good.KeyPolicies},
		"an index without values":   trust.Policy{Roots: good.Roots, KeyPolicies: good.KeyPolicies, PCRs: map[int][]nitro.PCR{0: {}}},
		"nothing of the key policy": trust.Policy{Roots: good.Roots, PCRs: good.PCRs},
	} {
		t.Run(name, func(t *testing.T) {
			c := connect(t, s, func(o *client.Options) { o.Trust = judge })
			if _, err := c.Run(t.Context(), client.Function{Name: f.ID}, nil); !errors.Is(err, client.ErrAttestation) {
				t.Errorf("error %v, want ErrAttestation", err)
			}
		})
	}
}
