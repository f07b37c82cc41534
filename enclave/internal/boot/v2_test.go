package boot_test

import (
	"bytes"
	"crypto/sha256"
	"testing"
	"time"

	"github.com/coder/websocket"

	"github.com/cape-functions/cape/core/account"
	"github.com/cape-functions/cape/core/attest"
	"github.com/cape-functions/cape/core/attest/nitro"
	"github.com/cape-functions/cape/core/attest/policy"
	attestkit "github.com/cape-functions/cape/core/attest/testkit"
	"github.com/cape-functions/cape/core/seal"
	"github.com/cape-functions/cape/core/secret"
	"github.com/cape-functions/cape/core/wire"
)

// sealed is a v2 client.
type sealed struct {
	t        testing.TB
	ws       *websocket.Conn
	keys     *seal.Channel
	attested *seal.Attested
	id       uint64
}

// sealed opens a v2 session as a client does that trusts this enclave.
func (w *world) sealed(t testing.TB, route, token string, key *account.Key) *sealed {
	t.Helper()
	ws, _, err := websocket.Dial(t.Context(), "ws://enclave"+route, &websocket.DialOptions{HTTPClient: w.http(), Subprotocols: []string{wire.SubprotocolV2}})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { ws.CloseNow() })
	ws.SetReadLimit(-1)
	s := &sealed{t: t, ws: ws}
	caller, err := seal.NewCaller(route)
	if err != nil {
		t.Fatal(err)
	}
	s.frame(caller.Hello())
	a, err := caller.Receive(s.read())
	if err != nil {
		t.Fatal(err)
	}
	root := module().Authority.Root
	evidence, err := attest.Verify(nil, a.Document, policy.Policy{Roots: [][]byte{root}, PCRs: map[int][]nitro.PCR{0: {attestkit.PCR(0)}},
		Nonce: caller.Nonce(), RequireUserData: true}, time.Now())
	if err != nil {
		t.Fatal(err)
	}
	if s.attested, err = caller.Bind(evidence, root); err != nil {
		t.Fatal(err)
	}
	frame, keys, err := caller.Open(seal.Opening{Token: secret.New([]byte(token)), Key: key})
	if err != nil {
		t.Fatal(err)
	}
	s.keys = keys
	s.frame(frame)
	if m, ok := s.next().(*wire.Accepted); !ok {
		t.Fatalf("not accepted: %+v", m)
	}
	return s
}

func (s *sealed) frame(b []byte) {
	if err := s.ws.Write(s.t.Context(), websocket.MessageBinary, b); err != nil {
		s.t.Fatal(err)
	}
}

func (s *sealed) read() []byte {
	_, b, err := s.ws.Read(s.t.Context())
	if err != nil {
		s.t.Fatal(err)
	}
	return b
}

func (s *sealed) record(r []byte) {
	frame, err := s.keys.Out.Seal(r)
	if err != nil {
		s.t.Fatal(err)
	}
	s.frame(frame)
}

func (s *sealed) send(m wire.Message) {
	r, err := wire.AppendMessage(nil, m)
	if err != nil {
		s.t.Fatal(err)
	}
	s.record(r)
}

// next returns the next record: a wire.Message, or the payload of a data record.
func (s *sealed) next() any {
	r, err := s.keys.In.Open(s.read())
	if err != nil {
		s.t.Fatal(err)
	}
	if _, payload, err := wire.ParseData(r); err == nil {
		return payload
	}
	m, err := wire.ParseFromEnclave(r)
	if err != nil {
		s.t.Fatal(err)
	}
	return m
}

// stream sends one input or function.
func (s *sealed) stream(kind string, data, manifest, sig []byte) {
	s.id++
	s.send(&wire.Begin{ID: s.id, Kind: kind, Manifest: manifest, Sig: sig})
	if len(data) > 0 {
		s.record(append(wire.AppendDataHead(nil, s.id), data...))
	}
	s.send(&wire.End{ID: s.id})
}

func (s *sealed) invoke(in []byte) ([]byte, *wire.Result) {
	s.stream(wire.KindInput, in, nil, nil)
	var out []byte
	for {
		switch m := s.next().(type) {
		case []byte:
			out = append(out, m...)
		case *wire.Result:
			return out, m
		case *wire.Log:
		default:
			s.t.Fatalf("got %T %+v", m, m)
		}
	}
}

// deployV2 stores a function of the account and returns its id.
func (w *world) deployV2(t testing.TB, key *account.Key, name string, zip []byte) string {
	t.Helper()
	acct, sum := key.ID(), sha256.Sum256(zip)
	raw, sig, err := key.SignManifest(&wire.Manifest{V: 2, Owner: wire.Subject{Iss: issuer, Sub: "dev|1"}, Acct: acct[:], Name: name,
		Access: wire.AccessToken, Decrypt: wire.DecryptOwner, Seq: 1, Checksum: sum[:], Salt: make([]byte, 16)})
	if err != nil {
		t.Fatal(err)
	}
	s := w.sealed(t, "/v1/deploy", w.token(nil), key)
	s.stream(wire.KindFunction, zip, raw, sig)
	d, ok := s.next().(*wire.Deployed)
	if !ok || d.ID != wire.FunctionID(raw) {
		t.Fatalf("not deployed: %+v", d)
	}
	return d.ID
}

func newAccount(t testing.TB) *account.Key {
	t.Helper()
	k, err := account.New()
	if err != nil {
		t.Fatal(err)
	}
	return k
}

// TestWholeRuntimeV2: what a runtime attests is what it booted with, and it runs what it
// stored.
func TestWholeRuntimeV2(t *testing.T) {
	w := newWorld(t)
	w.born()
	w.message(wire.ModeServe)
	w.start()
	key := newAccount(t)
	zip := zipOf(t, map[string]string{"echo/app.py": "import sys\ndef cape_handler(x):\n    print('hello', file=sys.stderr)\n    return x\n"})
	id := w.deployV2(t, key, "echo", zip)
	s := w.sealed(t, "/v1/run/"+id, w.token(nil), key)
	if !bytes.Equal(s.attested.Policy, w.birth.Policy) || s.attested.KMS != w.birth.KMS || s.attested.Config.Trust.Role != role || s.attested.TLS != nil {
		t.Errorf("attested %+v", s.attested)
	}
	auditor := seal.NewAuditor(s.attested)
	for _, in := range [][]byte{[]byte("x"), nil, make([]byte, 100_000)} {
		out, result := s.invoke(in)
		if !bytes.Equal(out, in) {
			t.Errorf("%d bytes came back", len(out))
		}
		r, err := auditor.Check(result, sha256.Sum256(in), sha256.Sum256(zip), sha256.Sum256(out))
		if err != nil {
			t.Fatal(err)
		}
		if age := time.Since(time.UnixMilli(int64(r.Time))); age < -time.Minute || age > time.Minute {
			t.Errorf("the receipt is of %s ago", age)
		}
	}
	v1 := w.session(t, "/v1/run/"+id, w.token(nil)) // deployed by either, run by either
	if out, remote := v1.invoke([]byte("x")); remote != nil || string(out) != "x" {
		t.Errorf("v1: %q, %v", out, remote)
	}
}
