package session_test

import (
	"bytes"
	"crypto/sha256"
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/coder/websocket"

	"github.com/cape-functions/cape/core/account"
	"github.com/cape-functions/cape/core/attest"
	"github.com/cape-functions/cape/core/seal"
	"github.com/cape-functions/cape/core/secret"
	"github.com/cape-functions/cape/core/wire"
	"github.com/cape-functions/cape/enclave/internal/token"
)

// peer is a client of v2. Tests break its rules on purpose.
type peer struct {
	t        *testing.T
	ws       *websocket.Conn
	keys     *seal.Channel
	attested *seal.Attested
	auditor  *seal.Auditor
}

// opening is a token and an account, each of which may be missing.
func opening(token string, key *account.Key) seal.Opening {
	o := seal.Opening{Key: key}
	if token != "" {
		o.Token = secret.New([]byte(token))
	}
	return o
}

func (f *fixture) socket(route string) *websocket.Conn {
	f.t.Helper()
	c, _, body := f.dial(route, wire.SubprotocolV2)
	if c == nil {
		f.t.Fatalf("refused: %+v", body)
	}
	return c.ws
}

// connect does the handshake but for open.
func (f *fixture) connect(route string, kems ...wire.KEM) (*seal.Caller, *peer) {
	f.t.Helper()
	caller, err := seal.NewCaller(route, kems...)
	if err != nil {
		f.t.Fatal(err)
	}
	p := &peer{t: f.t, ws: f.socket(route)}
	p.frame(caller.Hello())
	a, err := caller.Receive(p.read())
	if err != nil {
		f.t.Fatal(err)
	}
	evidence, err := attest.Verify(nil, a.Document, f.enclave.Accepts(caller.Nonce()), time.Now())
	if err != nil {
		f.t.Fatal(err)
	}
	if p.attested, err = caller.Bind(evidence, f.enclave.Authority.Root); err != nil {
		f.t.Fatal(err)
	}
	p.auditor = seal.NewAuditor(p.attested)
	return caller, p
}

// begin opens a session, which need not be accepted.
func (f *fixture) begin(route string, o seal.Opening) *peer {
	f.t.Helper()
	caller, p := f.connect(route)
	frame, keys, err := caller.Open(o)
	if err != nil {
		f.t.Fatal(err)
	}
	p.keys = keys
	p.frame(frame)
	return p
}

// accepted opens a session and reads that it was accepted.
func (f *fixture) accepted(route string, o seal.Opening) (*peer, *wire.Accepted) {
	f.t.Helper()
	p := f.begin(route, o)
	a, ok := p.next().(*wire.Accepted)
	if !ok {
		f.t.Fatalf("not accepted: %+v", a)
	}
	return p, a
}

func (p *peer) frame(b []byte) {
	p.t.Helper()
	if err := p.ws.Write(p.t.Context(), websocket.MessageBinary, b); err != nil {
		p.t.Fatal(err)
	}
}

func (p *peer) read() []byte {
	p.t.Helper()
	typ, b, err := p.ws.Read(p.t.Context())
	if err != nil {
		p.t.Fatal(err)
	}
	if typ != websocket.MessageBinary {
		p.t.Fatal("a text frame")
	}
	return b
}

func (p *peer) record(r []byte) {
	p.t.Helper()
	frame, err := p.keys.Out.Seal(append(make([]byte, 0, len(r)+seal.RecordOverhead), r...))
	if err != nil {
		p.t.Fatal(err)
	}
	p.frame(frame)
}

func (p *peer) send(m wire.Message) {
	p.t.Helper()
	r, err := wire.AppendMessage(nil, m)
	if err != nil {
		p.t.Fatal(err)
	}
	p.record(r)
}

func (p *peer) data(id uint64, payload []byte) {
	p.t.Helper()
	for len(payload) > 0 {
		n := min(len(payload), wire.DataPayload)
		p.record(append(wire.AppendDataHead(nil, id), payload[:n]...))
		payload = payload[n:]
	}
}

// input sends a whole input within the first credit.
func (p *peer) input(id uint64, payload []byte) {
	p.t.Helper()
	p.send(&wire.Begin{ID: id, Kind: wire.KindInput})
	p.data(id, payload)
	p.send(&wire.End{ID: id})
}

// function sends a whole function as id 1.
func (p *peer) function(zip, manifest, sig []byte) {
	p.t.Helper()
	p.send(&wire.Begin{ID: 1, Kind: wire.KindFunction, Manifest: manifest, Sig: sig})
	p.data(1, zip)
	p.send(&wire.End{ID: 1})
}

// dataOf is a data record.
type dataOf struct {
	id      uint64
	payload []byte
}

// next returns the next record: a wire.Message or dataOf.
func (p *peer) next() any {
	p.t.Helper()
	r, err := p.keys.In.Open(p.read())
	if err != nil {
		p.t.Fatal(err)
	}
	if wire.TypeOf(r) == wire.RecordData {
		id, payload, err := wire.ParseData(r)
		if err != nil {
			p.t.Fatal(err)
		}
		return dataOf{id, payload}
	}
	m, err := wire.ParseFromEnclave(r)
	if err != nil {
		p.t.Fatal(err)
	}
	return m
}

// result reads the output of id, of which the test read what is before, grants credit for it,
// and verifies the receipt.
func (p *peer) result(id uint64, input []byte, function [32]byte, before ...string) []byte {
	p.t.Helper()
	out := []byte(strings.Join(before, ""))
	for {
		switch m := p.next().(type) {
		case dataOf:
			if m.id != id {
				p.t.Fatalf("data of id %d", m.id)
			}
			out = append(out, m.payload...)
			p.send(&wire.Window{ID: id, Bytes: uint64(len(m.payload))})
		case *wire.Window, *wire.Log:
		case *wire.Result:
			if _, err := p.auditor.Check(m, sha256.Sum256(input), function, sha256.Sum256(out)); err != nil || m.ID != id {
				p.t.Fatalf("result of id %d: %v", m.ID, err)
			}
			return out
		default:
			p.t.Fatalf("got %T %+v", m, m)
		}
	}
}

// refused reads a failure of id, 0: of the session, and its code.
func (p *peer) refused(id uint64, code string) *wire.Failure {
	p.t.Helper()
	for {
		switch m := p.next().(type) {
		case *wire.Window, *wire.Log, dataOf:
		case *wire.Failure:
			got := uint64(0)
			if m.ID != nil {
				got = *m.ID
			}
			if m.Code != code || got != id {
				p.t.Fatalf("got %s of id %d: %s; want %s of %d", m.Code, got, m.Message, code, id)
			}
			return m
		default:
			p.t.Fatalf("got %T %+v, want the error %s", m, m, code)
		}
	}
}

// closed waits for the end of the connection and returns the code it was closed with.
func (p *peer) closed() websocket.StatusCode {
	p.t.Helper()
	for {
		if _, _, err := p.ws.Read(p.t.Context()); err != nil {
			return websocket.CloseStatus(err)
		}
	}
}

// manifest is one of alice's account, before tests change it.
func (f *fixture) manifest(name string, zip []byte) *wire.Manifest {
	id, sum := f.alice.ID(), sha256.Sum256(zip)
	return &wire.Manifest{V: 2, Owner: alice(), Acct: id[:], Name: name, Access: wire.AccessToken, Decrypt: wire.DecryptOwner,
		Seq: 7, Checksum: sum[:], Salt: bytes.Repeat([]byte{1}, 16)}
}

// deployV2 stores a function of alice's account and returns its id.
func (f *fixture) deployV2(m *wire.Manifest, zip []byte) string {
	f.t.Helper()
	raw, sig, err := f.alice.SignManifest(m)
	if err != nil {
		f.t.Fatal(err)
	}
	p, _ := f.accepted("/v1/deploy", opening("alice", f.alice))
	p.function(zip, raw, sig)
	d, ok := p.next().(*wire.Deployed)
	if !ok || d.ID != wire.FunctionID(raw) || !bytes.Equal(d.Checksum, m.Checksum) {
		f.t.Fatalf("deployed: %+v", d)
	}
	if code := p.closed(); code != websocket.StatusNormalClosure {
		f.t.Errorf("closed with %d", code)
	}
	return d.ID
}

// refusal reads what stands where an attest should.
func (p *peer) refusal(code string) {
	p.t.Helper()
	_, err := wire.ParseAttest(p.read())
	var remote *wire.RemoteError
	if !errors.As(err, &remote) || remote.Code != code || remote.Text == "" {
		p.t.Errorf("got %v, want %s", err, code)
	}
}

// claimsFor are bob's, limited to one function.
func (f *fixture) claimsFor(id string) *token.Claims {
	return &token.Claims{Subject: bob(), Username: "bob", FunctionID: id}
}
