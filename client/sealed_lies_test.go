package client_test

import (
	"bytes"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"io"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/cape-functions/cape/client"
	"github.com/cape-functions/cape/client/testkit"
	"github.com/cape-functions/cape/core/attest"
	"github.com/cape-functions/cape/core/attest/nitro"
	attestkit "github.com/cape-functions/cape/core/attest/testkit"
	"github.com/cape-functions/cape/core/seal"
	sealkit "github.com/cape-functions/cape/core/seal/testkit"
	"github.com/cape-functions/cape/core/wire"
)

// sealedLie is a lie, and what it must lead to.
type sealedLie struct {
	name string
	lie  func(*testkit.Lies)
	want []error
}

// attest changes the answer to hello on its way.
func attestLie(change func(*wire.Attest)) func(*testkit.Lies) {
	return func(l *testkit.Lies) {
		l.Sealed.Attest = func(message []byte) []byte {
			a, err := wire.ParseAttest(message)
			if err != nil {
				panic(err)
			}
			change(a)
			encoded, err := wire.Marshal(a)
			if err != nil {
				panic(err)
			}
			return encoded
		}
	}
}

func documentLie(change func(*nitro.Document)) func(*testkit.Lies) {
	return func(l *testkit.Lies) { l.Document = func(_ string, d *nitro.Document) { change(d) } }
}

func claimLie(change func(*wire.SessionClaim)) func(*testkit.Lies) {
	return func(l *testkit.Lies) { l.Sealed.Claim = change }
}

func helloLie(change func(*wire.Hello)) func(*testkit.Lies) {
	return func(l *testkit.Lies) {
		l.Sealed.Hello = func(message []byte) []byte {
			h, err := wire.ParseHello(message)
			if err != nil {
				panic(err)
			}
			change(h)
			encoded, err := wire.Marshal(h)
			if err != nil {
				panic(err)
			}
			return encoded
		}
	}
}

func requestLie(answer func(http.ResponseWriter)) func(*testkit.Lies) {
	return func(l *testkit.Lies) {
		l.Request = func(w http.ResponseWriter, _ *http.Request) bool { answer(w); return true }
	}
}

// otherConfig is the configuration of an enclave of somebody else: its issuer would give
// anybody's tokens out.
func otherConfig() *sealkit.Enclave {
	config := sealkit.DefaultConfig()
	config.Trust.Issuers[0].Iss = "https://evil.example"
	return sealkit.NewEnclaveFor(time.Now(), config)
}

func documentLies() []sealedLie {
	stranger := attestkit.NewAuthority("stranger", time.Now())
	refused := func(class error) []error { return []error{client.ErrAttestation, class} }
	return []sealedLie{
		{"foreign root", func(l *testkit.Lies) { l.Authority = stranger }, refused(attest.ErrRoot)},
		{"wrong nonce", documentLie(func(d *nitro.Document) { d.Nonce[0] ^= 1 }), refused(attest.ErrNonce)},
		{"no nonce", documentLie(func(d *nitro.Document) { d.Nonce = nil }), refused(attest.ErrNonce)},
		{"wrong PCR", documentLie(func(d *nitro.Document) { d.PCRs[2] = attestkit.PCR(9) }), refused(attest.ErrPCR)},
		{"debug mode", documentLie(func(d *nitro.Document) { d.PCRs[0] = nitro.PCR{} }), refused(attest.ErrDebug)},
		{"old document", documentLie(func(d *nitro.Document) { d.Timestamp = d.Timestamp.Add(-90 * time.Minute) }), refused(attest.ErrTime)},
		{"altered document", func(l *testkit.Lies) { l.Signed = func(b []byte) []byte { b[len(b)-1] ^= 1; return b } }, refused(attest.ErrSignature)},
		{"user data of v1", documentLie(func(d *nitro.Document) { d.UserData = []byte(`{"key_checksum":""}`) }), refused(seal.ErrBinding)},
		{"no user data", documentLie(func(d *nitro.Document) { d.UserData = nil }), refused(attest.ErrField)},
		{"no receipt key", documentLie(func(d *nitro.Document) { d.PublicKey = nil }), refused(seal.ErrBinding)},
		{"document for another use", claimLie(func(c *wire.SessionClaim) { c.Use = wire.UseKey }), refused(seal.ErrBinding)},
		{"document for another session key", claimLie(func(c *wire.SessionClaim) { c.PK = make([]byte, 32) }), refused(seal.ErrBinding)},
		{"document for another policy", claimLie(func(c *wire.SessionClaim) { c.Policy = make([]byte, 32) }), refused(seal.ErrBinding)},
		{"document for another configuration", claimLie(func(c *wire.SessionClaim) { c.Config = make([]byte, 32) }), refused(seal.ErrBinding)},
		{"document of a stronger exchange", claimLie(func(c *wire.SessionClaim) { c.KEM = wire.KEMX25519 }), refused(seal.ErrBinding)},
		{"TLS that ends elsewhere", func(l *testkit.Lies) { l.Sealed.TLS = make([]byte, 32) }, refused(client.ErrTLS)},
		{"configuration with another issuer", func(l *testkit.Lies) { l.Sealed.Config = otherConfig().Config }, refused(seal.ErrTrust)},
		{"another KMS key", func(l *testkit.Lies) {
			config := sealkit.DefaultConfig()
			config.KMS = "arn:aws:kms:eu-west-1:111122223333:key/00000000-1234-1234-1234-123456789012"
			l.Sealed.Config = sealkit.NewEnclaveFor(time.Now(), config).Config
		}, refused(seal.ErrTrust)},
		{"policy for another trust", func(l *testkit.Lies) { l.Sealed.Policy = otherConfig().Policy }, refused(seal.ErrTrust)},
		{"policy with one more statement", func(l *testkit.Lies) {
			l.Sealed.Policy = moreStatements(sealkit.NewEnclave(time.Now()).Policy)
		}, refused(seal.ErrTrust)},
		{"policy that nobody inspected", func(l *testkit.Lies) { l.Sealed.Policy = []byte{} }, refused(seal.ErrTrust)},
		{"no birth document", func(l *testkit.Lies) { l.Sealed.Birth = []byte{} }, refused(seal.ErrTrust)},
		{"birth document of another key", func(l *testkit.Lies) { l.Sealed.Birth = otherConfig().Birth }, refused(seal.ErrTrust)},
	}
}

// moreStatements adds one to a policy.
func moreStatements(policy []byte) []byte {
	var p map[string]any
	if err := json.Unmarshal(policy, &p); err != nil {
		panic(err)
	}
	p["Statement"] = append(p["Statement"].([]any), map[string]any{"Effect": "Allow", "Principal": "*", "Action": "kms:Decrypt", "Resource": "*"})
	encoded, err := json.Marshal(p)
	if err != nil {
		panic(err)
	}
	return encoded
}

// hostLies are those of who carries frames between honest ends, to make the session weaker
// or another.
func hostLies() []sealedLie {
	return []sealedLie{
		{"no subprotocol", func(l *testkit.Lies) { l.NoSubprotocol = true }, []error{client.ErrProtocol}},
		{"no WebSocket", requestLie(func(http.ResponseWriter) {}), []error{client.ErrProtocol}},
		{"key exchange stripped from hello", helloLie(func(h *wire.Hello) { h.KEMs = []wire.KEM{wire.KEMX25519} }), []error{client.ErrDowngrade}},
		{"key exchange added to hello", helloLie(func(h *wire.Hello) { h.KEMs = append(h.KEMs, wire.KEMX25519) }), []error{client.ErrProtocol}},
		{"nonce of somebody else", helloLie(func(h *wire.Hello) { h.Nonce = make([]byte, 32) }), []error{client.ErrAttestation, attest.ErrNonce}},
		{"weaker key exchange chosen", attestLie(func(a *wire.Attest) { a.KEM, a.PublicKey = wire.KEMX25519, a.PublicKey[:32] }), []error{client.ErrDowngrade}},
		{"session key swapped", attestLie(func(a *wire.Attest) { a.PublicKey = bytes.Repeat([]byte{7}, len(a.PublicKey)) }), []error{client.ErrAttestation, seal.ErrBinding}},
		{"configuration swapped", attestLie(func(a *wire.Attest) { a.Config = otherConfig().Config }), []error{client.ErrAttestation, seal.ErrBinding}},
		{"policy swapped", attestLie(func(a *wire.Attest) { a.Policy = otherConfig().Policy }), []error{client.ErrAttestation, seal.ErrBinding}},
		{"skew rewritten", attestLie(func(a *wire.Attest) { a.SkewMS = 1 }), []error{client.ErrProtocol}},
		{"text of v1", func(l *testkit.Lies) { l.Sealed.Attest = func([]byte) []byte { return []byte(`{"message":{}}`) } }, []error{client.ErrProtocol}},
		{"bytes behind attest", func(l *testkit.Lies) { l.Sealed.Attest = func(b []byte) []byte { return append(b, 0) } }, []error{client.ErrProtocol}},
		{"flood", func(l *testkit.Lies) { l.Sealed.Attest = func([]byte) []byte { return make([]byte, 1<<20) } }, []error{client.ErrTooLarge}},
	}
}

// TestSealedLies: nothing is sent to a server that lies before the session is open: no
// token, no input; and no other protocol is tried.
func TestSealedLies(t *testing.T) {
	for _, tc := range append(documentLies(), hostLies()...) {
		t.Run(tc.name, func(t *testing.T) {
			s := testkit.New(t)
			called := false
			f := s.Add(testkit.Function{User: "ann", Name: "f", Zip: []byte("zip"), Handler: func(in []byte) ([]byte, error) { called = true; return in, nil }})
			s.Lie(tc.lie)
			r, err := connectSealed(t, s).Run(t.Context(), client.Function{Name: f.ID}, []byte("input"))
			for _, want := range tc.want {
				if !errors.Is(err, want) {
					t.Errorf("error %v, want %v", err, want)
				}
			}
			if r != nil || called || s.Opens() != 0 {
				t.Errorf("result %v, called %t, sessions opened %d", r, called, s.Opens())
			}
			if n := len(s.Requests()); n != 1 {
				t.Errorf("%d requests: something else was tried", n)
			}
		})
	}
}

// TestSealedRefusals: an error in place of what is due is told, and is no reason to go on in
// another way.
func TestSealedRefusals(t *testing.T) {
	refusal, err := wire.EncodeRefusal(wire.CodeUnavailable, "use v1")
	if err != nil {
		t.Fatal(err)
	}
	for name, tc := range map[string]struct {
		lie  func(*testkit.Lies)
		code string
	}{
		"in place of attest": {func(l *testkit.Lies) { l.Sealed.Attest = func([]byte) []byte { return refusal } }, wire.CodeUnavailable},
		"plain HTTP": {requestLie(func(w http.ResponseWriter) {
			w.WriteHeader(http.StatusBadRequest)
			_, _ = w.Write([]byte(`{"error":"only cape.runtime is spoken","code":"invalid_request"}`))
		}), wire.CodeInvalidRequest},
		"sent to another function": {helloLie(func(h *wire.Hello) { h.Route = "/v1/run/bob/evil" }), wire.CodeInvalidRequest},
	} {
		t.Run(name, func(t *testing.T) {
			s := testkit.New(t)
			f := s.Add(testkit.Function{User: "ann", Name: "f", Zip: []byte("zip")})
			s.Lie(tc.lie)
			_, err := connectSealed(t, s).Run(t.Context(), client.Function{Name: f.ID}, []byte("input"))
			var remote *client.RemoteError
			if !errors.As(err, &remote) || remote.Code != tc.code {
				t.Errorf("error %v, want %s", err, tc.code)
			}
			if len(s.Requests()) != 1 || s.Opens() != 0 {
				t.Errorf("%d requests, %d sessions", len(s.Requests()), s.Opens())
			}
		})
	}
}

// frameLie changes sealed frames, the host's only way once a session is open.
func frameLie(change func(i int, frame []byte) [][]byte) func(*testkit.Lies) {
	return func(l *testkit.Lies) {
		i := 0
		l.Sealed.Frames = func(frame []byte) [][]byte { i++; return change(i, frame) }
	}
}

// recordLie changes records before they are sealed: an enclave that does not keep to the
// protocol.
func recordLie(change func(record []byte) [][]byte) func(*testkit.Lies) {
	return func(l *testkit.Lies) { l.Sealed.Records = change }
}

func carriedLies() []sealedLie {
	var held []byte
	protocol := []error{client.ErrProtocol}
	return []sealedLie{
		{"bit flipped", frameLie(func(i int, f []byte) [][]byte { f[len(f)/2] ^= 1; return [][]byte{f} }), protocol},
		{"frame cut", frameLie(func(i int, f []byte) [][]byte { return [][]byte{f[:len(f)-1]} }), protocol},
		{"frame longer", frameLie(func(i int, f []byte) [][]byte { return [][]byte{append(f, 0)} }), protocol},
		{"empty frame", frameLie(func(i int, f []byte) [][]byte { return [][]byte{{}} }), protocol},
		{"frame repeated", frameLie(func(i int, f []byte) [][]byte { return [][]byte{f, bytes.Clone(f)} }), protocol},
		{"frame left out", frameLie(func(i int, f []byte) [][]byte {
			if i == 2 {
				return nil
			}
			return [][]byte{f}
		}), protocol},
		{"frames exchanged", frameLie(func(i int, f []byte) [][]byte {
			if i == 2 {
				held = bytes.Clone(f)
				return nil
			}
			if i == 3 {
				return [][]byte{f, held}
			}
			return [][]byte{f}
		}), protocol},
		{"frame of its own", frameLie(func(i int, f []byte) [][]byte { return [][]byte{make([]byte, 40), f} }), protocol},
		{"huge frame", frameLie(func(i int, f []byte) [][]byte { return [][]byte{make([]byte, wire.MaxFrame+1)} }), []error{client.ErrTooLarge}},
	}
}

func enclaveLies() []sealedLie {
	protocol, checksum := []error{client.ErrProtocol}, []error{client.ErrChecksum}
	accepted := func(change func(*wire.Accepted)) func(*testkit.Lies) {
		return func(l *testkit.Lies) { l.Sealed.Accepted = change }
	}
	result := func(change func(*wire.Result)) func(*testkit.Lies) {
		return func(l *testkit.Lies) { l.Sealed.Result = change }
	}
	before := func(m wire.Message, kind wire.RecordType) func(*testkit.Lies) {
		return recordLie(func(r []byte) [][]byte {
			if wire.TypeOf(r) != kind {
				return [][]byte{r}
			}
			record, err := wire.AppendMessage(nil, m)
			if err != nil {
				panic(err)
			}
			return [][]byte{record, r}
		})
	}
	data := func(id uint64, n int) []byte { return append(wire.AppendDataHead(nil, id), make([]byte, n)...) }
	instead := func(records ...[]byte) func(*testkit.Lies) {
		return recordLie(func(r []byte) [][]byte {
			if wire.TypeOf(r) == wire.RecordData {
				return records
			}
			return [][]byte{r}
		})
	}
	return []sealedLie{
		{"other code served", accepted(func(a *wire.Accepted) { a.Fn = make([]byte, 32) }), checksum},
		{"signature stripped", accepted(func(a *wire.Accepted) { a.Sig, a.Key = nil, nil }), checksum},
		{"signature altered", accepted(func(a *wire.Accepted) { a.Sig[0] ^= 1 }), checksum},
		{"signed by another", accepted(func(a *wire.Accepted) { a.Key[0] ^= 1 }), checksum},
		{"no function", accepted(func(a *wire.Accepted) { *a = wire.Accepted{} }), protocol},
		{"accepted left out", recordLie(func(r []byte) [][]byte {
			if wire.TypeOf(r) == wire.RecordAccepted {
				return nil
			}
			return [][]byte{r}
		}), protocol},
		{"accepted twice", recordLie(func(r []byte) [][]byte {
			if wire.TypeOf(r) == wire.RecordAccepted {
				return [][]byte{bytes.Clone(r), r}
			}
			return [][]byte{r}
		}), protocol},
		{"result before accepted", before(&wire.Deployed{ID: "AAAAAAAAAAAAAAAAAAAAAA", Checksum: make([]byte, 32)}, wire.RecordAccepted), protocol},
		{"result of another id", result(func(r *wire.Result) { r.ID = 2 }), protocol},
		{"deployed in place of a result", before(&wire.Deployed{ID: "AAAAAAAAAAAAAAAAAAAAAA", Checksum: make([]byte, 32)}, wire.RecordEnd), protocol},
		{"log of another id", before(&wire.Log{ID: 9, Stream: wire.StreamStdout, Data: []byte("x")}, wire.RecordEnd), protocol},
		{"data of another id", instead(data(2, 5)), protocol},
		{"output altered", instead(data(1, 5)), checksum},
		{"output cut", instead(), checksum},
		{"unknown record", instead([]byte{0x7f, 0}), protocol},
		{"record of a client", instead([]byte{byte(wire.RecordBegin), 0xa0}), protocol},
		{"input's checksum altered", result(func(r *wire.Result) { r.Checksums.Input[0] ^= 1 }), checksum},
		{"function's checksum altered", result(func(r *wire.Result) { r.Checksums.Function = make([]byte, 32) }), checksum},
		{"output's checksum altered", result(func(r *wire.Result) { r.Checksums.Output[0] ^= 1 }), checksum},
		{"receipt altered", result(func(r *wire.Result) { r.Receipt[len(r.Receipt)-1] ^= 1 }), checksum},
		{"receipt is garbage", result(func(r *wire.Result) { r.Receipt = []byte("receipt") }), checksum},
		{"openings altered", result(func(r *wire.Result) { r.Openings.In[0] ^= 1 }), checksum},
	}
}

// TestSealedCarriedLies: nothing that is not whole and genuine is given out as a result.
func TestSealedCarriedLies(t *testing.T) {
	for _, tc := range append(carriedLies(), enclaveLies()...) {
		t.Run(tc.name, func(t *testing.T) {
			s := testkit.New(t)
			f := s.Add(testkit.Function{User: "ann", Name: "f", Zip: []byte("zip")})
			s.Lie(tc.lie)
			// What the call pins is demanded of the enclave, and the input sent at once.
			sum := sha256.Sum256([]byte("zip"))
			r, err := connectSealed(t, s).Run(t.Context(), client.Function{Name: f.ID, Checksum: sum[:]}, []byte("input"))
			if err == nil || r != nil {
				t.Fatalf("a result was given out: %v", r)
			}
			for _, want := range tc.want {
				if !errors.Is(err, want) {
					t.Errorf("error %v, want %v", err, want)
				}
			}
		})
	}
}

// TestSealedUnacceptable: where nothing was demanded of the enclave, no input is sent before
// what it serves was accepted.
func TestSealedUnacceptable(t *testing.T) {
	for _, tc := range enclaveLies()[:5] {
		t.Run(tc.name, func(t *testing.T) {
			s := testkit.New(t)
			called := false
			f := s.Add(testkit.Function{User: "ann", Name: "f", Zip: []byte("zip"), Handler: func(in []byte) ([]byte, error) { called = true; return in, nil }})
			s.Lie(tc.lie)
			_, err := connectSealed(t, s).Run(t.Context(), client.Function{Name: f.ID}, []byte("input"))
			if !errors.Is(err, tc.want[0]) || called {
				t.Errorf("error %v, want %v; called %t", err, tc.want[0], called)
			}
		})
	}
}

// TestSealedEarlyOutput: an enclave cannot have computed anything before it has the whole
// input, and nothing at all of a function that is deployed.
func TestSealedEarlyOutput(t *testing.T) {
	s := testkit.New(t)
	f := s.Add(testkit.Function{User: "ann", Name: "f", Zip: []byte("zip")})
	lie := func(kind wire.RecordType) {
		s.Lie(recordLie(func(r []byte) [][]byte {
			if wire.TypeOf(r) == kind {
				return [][]byte{append(wire.AppendDataHead(nil, 1), "early"...), r}
			}
			return [][]byte{r}
		}))
	}
	lie(wire.RecordWindow)
	if _, err := connectSealed(t, s).Run(t.Context(), client.Function{Name: f.ID}, make([]byte, 8<<20)); !errors.Is(err, client.ErrProtocol) {
		t.Errorf("output before the input: %v, want ErrProtocol", err)
	}
	lie(wire.RecordDeployed)
	p, err := client.Pack(t.Context(), folder(t, "fn", "# upper"), "")
	if err != nil {
		t.Fatal(err)
	}
	defer p.Close()
	if d, err := connectSealed(t, s).Deploy(t.Context(), p, client.DeployOptions{}); !errors.Is(err, client.ErrProtocol) || d != nil {
		t.Errorf("output of a deploy: %v, want ErrProtocol", err)
	}
}

// TestSealedOverCredit: an enclave that sends more than was granted cannot fill the memory
// of a client whose output goes nowhere.
func TestSealedOverCredit(t *testing.T) {
	s := testkit.New(t)
	f := s.Add(testkit.Function{User: "ann", Name: "f", Zip: []byte("zip")})
	s.Lie(recordLie(func(r []byte) [][]byte {
		if wire.TypeOf(r) != wire.RecordData {
			return [][]byte{r}
		}
		var flood [][]byte
		for range 20 {
			flood = append(flood, append(wire.AppendDataHead(nil, 1), make([]byte, wire.DataPayload)...))
		}
		return flood
	}))
	_, err := connectSealed(t, s).Stream(t.Context(), client.Function{Name: f.ID}, strings.NewReader("x"), &slowWriter{Writer: io.Discard, wait: time.Second})
	if !errors.Is(err, client.ErrProtocol) {
		t.Errorf("error %v, want ErrProtocol", err)
	}
}
