package session_test

import (
	"bytes"
	"context"
	"crypto/rand"
	"crypto/sha256"
	"sync/atomic"
	"testing"

	"github.com/coder/websocket"

	"github.com/cape-functions/cape/core/wire"
	"github.com/cape-functions/cape/enclave/internal/session"
)

// echoV2 is a public echo of alice's account: its id and checksum.
func (f *fixture) echoV2() (id string, checksum [32]byte) {
	f.t.Helper()
	zip := zipOf(f.t, "e/app.py", "")
	m := f.manifest("echo", zip)
	m.Access = wire.AccessPublic
	return f.deployV2(m, zip), sha256.Sum256(zip)
}

// TestV2BrokenRules: each ends its session with a clear error, calls no handler, and the
// next session works.
func TestV2BrokenRules(t *testing.T) {
	begin := func(id uint64) *wire.Begin { return &wire.Begin{ID: id, Kind: wire.KindInput} }
	tests := []struct {
		name string
		do   func(p *peer)
		code string
	}{
		{"id that is not the first", func(p *peer) { p.send(begin(2)) }, wire.CodeInvalidRequest},
		{"begun twice", func(p *peer) { p.send(begin(1)); p.send(begin(1)) }, wire.CodeInvalidRequest},
		{"next before the end", func(p *peer) { p.send(begin(1)); p.send(begin(2)) }, wire.CodeInvalidRequest},
		{"data before begin", func(p *peer) { p.data(1, []byte("x")) }, wire.CodeInvalidRequest},
		{"data of another id", func(p *peer) { p.send(begin(1)); p.data(2, []byte("x")) }, wire.CodeInvalidRequest},
		{"end before begin", func(p *peer) { p.send(&wire.End{ID: 1}) }, wire.CodeInvalidRequest},
		{"function", func(p *peer) { p.send(&wire.Begin{ID: 1, Kind: wire.KindFunction}) }, wire.CodeInvalidRequest},
		{"cancel of nothing", func(p *peer) { p.send(&wire.Cancel{ID: 1}) }, wire.CodeInvalidRequest},
		{"credit for nothing", func(p *peer) { p.send(&wire.Window{ID: 1, Bytes: 1}) }, wire.CodeInvalidRequest},
		{"too much credit", func(p *peer) { p.send(begin(1)); p.send(&wire.Window{ID: 1, Bytes: wire.MaxCredit}) }, wire.CodeInvalidRequest},
		{"unknown type", func(p *peer) { p.record([]byte{0x55, 0xa0}) }, wire.CodeInvalidRequest},
		{"enclave's record", func(p *peer) { p.send(&wire.Deployed{ID: "23456789ABCDEFGHJKLMNP", Checksum: make([]byte, 32)}) }, wire.CodeInvalidRequest},
		{"malformed", func(p *peer) { p.record([]byte{byte(wire.RecordBegin), 0xa0}) }, wire.CodeInvalidRequest},
		{"empty data", func(p *peer) { p.send(begin(1)); p.record(wire.AppendDataHead(nil, 1)) }, wire.CodeInvalidRequest},
		{"text frame", func(p *peer) { _ = p.ws.Write(p.t.Context(), websocket.MessageText, []byte("x")) }, wire.CodeInvalidRequest},
		{"record in a text frame", func(p *peer) {
			first, second := p.sealed(begin(1)), p.sealed(&wire.End{ID: 1})
			_ = p.ws.Write(p.t.Context(), websocket.MessageText, first)
			_ = p.ws.Write(p.t.Context(), websocket.MessageBinary, second)
		}, wire.CodeInvalidRequest},
		{"frame too large", func(p *peer) { _ = p.ws.Write(p.t.Context(), websocket.MessageBinary, make([]byte, wire.MaxFrame+1)) }, wire.CodeTooLarge},
		{"garbage", func(p *peer) { p.frame(bytes.Repeat([]byte("x"), 40)) }, wire.CodeInvalidRequest},
		{"too short", func(p *peer) { p.frame([]byte("x")) }, wire.CodeInvalidRequest},
		{"bit flipped", func(p *peer) {
			frame := p.sealed(begin(1))
			frame[0] ^= 1
			p.frame(frame)
		}, wire.CodeInvalidRequest},
		{"repeated", func(p *peer) {
			frame := p.sealed(begin(1))
			p.frame(frame)
			p.frame(frame)
		}, wire.CodeInvalidRequest},
		{"out of order", func(p *peer) {
			first, second := p.sealed(begin(1)), p.sealed(&wire.End{ID: 1})
			p.frame(second)
			p.frame(first)
		}, wire.CodeInvalidRequest},
		{"one left out", func(p *peer) { p.send(begin(1)); p.sealed(&wire.Cancel{ID: 1}); p.frame(p.sealed(&wire.End{ID: 1})) }, wire.CodeInvalidRequest},
	}
	f := setup(t)
	id, checksum := f.echoV2()
	var called atomic.Bool
	f.functions.handle = func(_ context.Context, _ *process, in []byte) ([]byte, error) { called.Store(true); return in, nil }
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			called.Store(false)
			p, _ := f.accepted("/v1/run/"+id, opening("bob", nil))
			p.t = t
			tt.do(p)
			p.refused(0, tt.code)
			p.closed()
			waitFor(t, func() bool { return f.functions.running.Load() == 0 })
			if called.Load() {
				t.Error("the handler was called")
			}
			next, _ := f.accepted("/v1/run/"+id, opening("bob", nil))
			next.input(1, []byte("x"))
			next.result(1, []byte("x"), checksum)
			next.ws.CloseNow()
		})
	}
}

// sealed is the frame of m, which is to be sent by the test.
func (p *peer) sealed(m wire.Message) []byte {
	p.t.Helper()
	r, err := wire.AppendMessage(nil, m)
	if err != nil {
		p.t.Fatal(err)
	}
	frame, err := p.keys.Out.Seal(r)
	if err != nil {
		p.t.Fatal(err)
	}
	return append([]byte(nil), frame...)
}

func TestV2PayloadNeedsCredit(t *testing.T) {
	f := setup(t, func(c *session.Config) { c.Limits.Input = 64 << 20 })
	id, _ := f.echoV2()
	f.functions.handle = func(ctx context.Context, _ *process, _ []byte) ([]byte, error) {
		<-ctx.Done() // so that nothing of the second input is used up
		return nil, ctx.Err()
	}
	p, _ := f.accepted("/v1/run/"+id, opening("bob", nil))
	p.input(1, []byte("x"))
	p.send(&wire.Begin{ID: 2, Kind: wire.KindInput})
	p.data(2, make([]byte, wire.InitialCredit))
	p.data(2, []byte("x"))
	p.refused(0, wire.CodeInvalidRequest)
	p.closed()
}

func TestV2TooManyOpenInputs(t *testing.T) {
	f := setup(t)
	id, checksum := f.echoV2()
	release := make(chan struct{})
	f.functions.handle = func(ctx context.Context, _ *process, in []byte) ([]byte, error) {
		select {
		case <-release:
		case <-ctx.Done():
		}
		return in, ctx.Err()
	}
	p, _ := f.accepted("/v1/run/"+id, opening("bob", nil))
	for i := range uint64(wire.MaxStreams) {
		p.input(i+1, []byte{byte(i)})
	}
	close(release)
	for i := range uint64(wire.MaxStreams) { // as many as may be open are answered, in their order
		if out := p.result(i+1, []byte{byte(i)}, checksum); !bytes.Equal(out, []byte{byte(i)}) {
			t.Errorf("result %d is %x", i+1, out)
		}
	}
	f.functions.handle = func(ctx context.Context, _ *process, in []byte) ([]byte, error) { <-ctx.Done(); return nil, ctx.Err() }
	q, _ := f.accepted("/v1/run/"+id, opening("bob", nil))
	for i := range uint64(wire.MaxStreams) {
		q.input(i+1, []byte{byte(i)})
	}
	q.send(&wire.Begin{ID: wire.MaxStreams + 1, Kind: wire.KindInput})
	q.refused(0, wire.CodeInvalidRequest)
}

func TestV2InputsLargerThanTheCreditStream(t *testing.T) {
	const size = 3*wire.InitialCredit + 5
	f := setup(t, func(c *session.Config) { c.Limits.Input, c.Limits.Output = size, size })
	id, checksum := f.echoV2()
	in := make([]byte, size)
	rand.Read(in)
	p, _ := f.accepted("/v1/run/"+id, opening("bob", nil))
	p.send(&wire.Begin{ID: 1, Kind: wire.KindInput})
	credit, rest := wire.InitialCredit, in
	for len(rest) > 0 {
		n := min(credit, len(rest))
		p.data(1, rest[:n])
		credit, rest = credit-n, rest[n:]
		for credit == 0 && len(rest) > 0 {
			w, ok := p.next().(*wire.Window)
			if !ok || w.ID != 1 {
				t.Fatalf("got %+v", w)
			}
			credit += int(w.Bytes)
		}
	}
	p.send(&wire.End{ID: 1})
	if out := p.result(1, in, checksum); !bytes.Equal(out, in) {
		t.Error("another output")
	}
}

// TestV2OutputsKeepToTheCredit: a client that grants nothing gets what it may get and no more;
// it can still be heard, and cancel.
func TestV2OutputsKeepToTheCredit(t *testing.T) {
	const size = wire.InitialCredit + 100_000
	f := setup(t, func(c *session.Config) { c.Limits.Output = size })
	id, checksum := f.echoV2()
	f.functions.handle = func(context.Context, *process, []byte) ([]byte, error) { return make([]byte, size), nil }
	for _, cancel := range []bool{false, true} {
		p, _ := f.accepted("/v1/run/"+id, opening("bob", nil))
		p.input(1, nil)
		got := 0
		for got < wire.InitialCredit {
			d, ok := p.next().(dataOf)
			if !ok {
				t.Fatalf("got %+v", d)
			}
			got += len(d.payload)
		}
		if got != wire.InitialCredit {
			t.Fatalf("%d bytes came", got)
		}
		if cancel {
			p.send(&wire.Cancel{ID: 1})
			p.refused(1, wire.CodeUnavailable)
			p.closed()
			continue
		}
		p.send(&wire.Window{ID: 1, Bytes: 100_000})
		d, ok := p.next().(dataOf)
		if !ok || len(d.payload) != 100_000 {
			t.Fatalf("got %d bytes", len(d.payload))
		}
		r, ok := p.next().(*wire.Result)
		if !ok {
			t.Fatal("no result")
		}
		if _, err := p.auditor.Check(r, sha256.Sum256(nil), checksum, sha256.Sum256(make([]byte, size))); err != nil {
			t.Error(err)
		}
	}
}
