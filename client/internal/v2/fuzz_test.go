package v2

import (
	"bytes"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"testing"
	"time"

	"github.com/cape-functions/cape/client/internal/link"
	"github.com/cape-functions/cape/core/attest"
	"github.com/cape-functions/cape/core/flow"
	"github.com/cape-functions/cape/core/seal"
	sealkit "github.com/cape-functions/cape/core/seal/testkit"
	"github.com/cape-functions/cape/core/wire"
)

// attested is a handshake with an honest enclave.
func attested(f *testing.F) *seal.Attested {
	f.Helper()
	at := time.Date(2026, 3, 4, 5, 6, 7, 0, time.UTC)
	e := sealkit.NewEnclave(at)
	caller, err := seal.NewCaller("/v1/run/ann/f")
	if err != nil {
		f.Fatal(err)
	}
	responder, err := seal.NewResponder(caller.Hello(), "/v1/run/ann/f")
	if err != nil {
		f.Fatal(err)
	}
	message, err := e.Answer(responder)
	if err != nil {
		f.Fatal(err)
	}
	a, err := caller.Receive(message)
	if err != nil {
		f.Fatal(err)
	}
	ev, err := attest.Verify(nil, a.Document, e.Accepts(caller.Nonce()), at)
	if err != nil {
		f.Fatal(err)
	}
	out, err := caller.Bind(ev, e.Authority.Root)
	if err != nil {
		f.Fatal(err)
	}
	return out
}

// waiting is a session without a connection: id 1 was sent, id 2 is being sent.
func waiting(a *seal.Attested) *Session {
	s := &Session{attested: a, calls: map[uint64]*Call{}, slots: make(chan struct{}, wire.MaxStreams), audit: seal.NewAuditor(a),
		known: make(chan struct{}), ended: make(chan struct{})}
	for id := uint64(1); id <= 2; id++ {
		c := &Call{session: s, kind: wire.KindInput, id: id, output: sha256.New(), credit: flow.NewSendCredit(),
			receive: flow.NewReceiveCredit(), wake: make(chan struct{}, 1)}
		s.calls[id] = c
		if err := s.streams.Begin(id); err != nil {
			panic(err)
		}
		s.last = id
		if id == 1 {
			if err := s.streams.End(id); err != nil {
				panic(err)
			}
			c.sent = true
		}
	}
	return s
}

// framed puts records into one fuzz input: u16be(len) and the record, each.
func framed(records ...[]byte) []byte {
	var out []byte
	for _, r := range records {
		out = append(binary.BigEndian.AppendUint16(out, uint16(len(r))), r...)
	}
	return out
}

// FuzzTake gives a session records that nobody checked but the cipher: an enclave may be
// anything. There must be no panic, no result, and no more memory than was granted.
func FuzzTake(f *testing.F) {
	a := attested(f)
	message := func(m wire.Message) []byte {
		record, err := wire.AppendMessage(nil, m)
		if err != nil {
			f.Fatal(err)
		}
		return record
	}
	sum := make([]byte, 32)
	accepted := message(&wire.Accepted{Fn: sum, Manifest: []byte("manifest"), Python: "3.11", Platform: "linux-x86_64", Limits: wire.DefaultLimits()})
	data := func(id uint64, n int) []byte { return append(wire.AppendDataHead(nil, id), make([]byte, n)...) }
	result := message(&wire.Result{ID: 1, Checksums: wire.Checksums{Input: sum, Function: sum, Output: sum},
		Openings: wire.Openings{In: sum, Out: sum}, Receipt: []byte("receipt")})
	f.Add([]byte{})
	f.Add(framed(accepted, data(1, 5), result))
	f.Add(framed(accepted, message(wire.FailureOf(1, wire.CodeFunctionError, "no")), data(2, 9)))
	f.Add(framed(message(wire.FailureOf(0, wire.CodeUnauthorized, "no"))))
	f.Add(framed(accepted, message(&wire.Log{ID: 1, Stream: wire.StreamStdout, Data: []byte("x")}), message(&wire.Window{ID: 2, Bytes: 1 << 20})))
	f.Add(framed(accepted, message(&wire.Deployed{ID: "AAAAAAAAAAAAAAAAAAAAAA", Checksum: sum})))
	f.Add(framed(accepted, accepted))
	f.Add(framed(data(1, 1)))
	f.Add(framed(accepted, data(1, 40<<10), data(1, 40<<10), data(2, 1)))
	f.Fuzz(func(t *testing.T, input []byte) {
		s := waiting(a)
		calls := []*Call{s.calls[1], s.calls[2]}
		room := &buffer{make([]byte, 0, 4<<10)}
		for len(input) >= 2 {
			n := min(int(binary.BigEndian.Uint16(input)), len(input)-2)
			room.bytes = append(room.bytes[:0], input[2:2+n]...)
			input = input[2+n:]
			next, err := s.take(room.bytes, room)
			if err != nil {
				if !isRemote(err) && !errors.Is(err, link.ErrProtocol) && !errors.Is(err, link.ErrChecksum) {
					t.Fatalf("an error of no class: %v", err)
				}
				break
			}
			room = next
		}
		for _, c := range calls {
			if c.outcome.Result != nil {
				t.Error("a result without a receipt was taken")
			}
			held := 0
			for _, p := range c.pieces {
				held += len(p.data)
			}
			if held > wire.InitialCredit+maxLogs {
				t.Errorf("%d bytes are held", held)
			}
		}
	})
}

// FuzzAnswer gives a caller answers to hello: what is not bound to a document is never
// opened to.
func FuzzAnswer(f *testing.F) {
	at := time.Date(2026, 3, 4, 5, 6, 7, 0, time.UTC)
	e := sealkit.NewEnclave(at)
	answer := func(route string) []byte {
		caller, err := seal.NewCaller(route)
		if err != nil {
			f.Fatal(err)
		}
		responder, err := seal.NewResponder(caller.Hello(), route)
		if err != nil {
			f.Fatal(err)
		}
		message, err := e.Answer(responder)
		if err != nil {
			f.Fatal(err)
		}
		return message
	}
	refused, err := wire.EncodeRefusal(wire.CodeUnavailable, "no")
	if err != nil {
		f.Fatal(err)
	}
	f.Add([]byte{})
	f.Add(refused)
	f.Add(answer("/v1/run/ann/f"))
	f.Add(bytes.Repeat([]byte{0x9f}, 40))
	f.Fuzz(func(t *testing.T, message []byte) {
		caller, err := seal.NewCaller("/v1/run/ann/f")
		if err != nil {
			t.Fatal(err)
		}
		a, err := caller.Receive(message)
		if err != nil {
			if err = refusal(err); !isRemote(err) && !errors.Is(err, link.ErrProtocol) && !errors.Is(err, seal.ErrKEM) {
				t.Fatalf("an error of no class: %v", err)
			}
			return
		}
		// An answer to another hello, as all of these are.
		if _, err := attest.Verify(nil, a.Document, e.Accepts(caller.Nonce()), at); err == nil {
			t.Fatal("a document for another nonce was accepted")
		}
		if _, _, err := caller.Open(seal.Opening{}); !errors.Is(err, seal.ErrOrder) {
			t.Fatalf("opened to an enclave that nobody verified: %v", err)
		}
	})
}
