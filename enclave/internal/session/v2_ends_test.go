package session_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/coder/websocket"

	"github.com/cape-functions/cape/core/account"
	"github.com/cape-functions/cape/core/seal"
	"github.com/cape-functions/cape/core/wire"
	"github.com/cape-functions/cape/enclave/internal/handler"
	"github.com/cape-functions/cape/enclave/internal/session"
)

func TestV2HandlerIsNotCalledBeforeTheEnd(t *testing.T) {
	f := setup(t)
	id, _ := f.echoV2()
	var called atomic.Bool
	f.functions.handle = func(_ context.Context, _ *process, in []byte) ([]byte, error) { called.Store(true); return in, nil }
	p, _ := f.accepted("/v1/run/"+id, opening("bob", nil))
	p.send(&wire.Begin{ID: 1, Kind: wire.KindInput})
	waitFor(t, func() bool { return f.functions.running.Load() == 1 }) // the jail starts with the first begin
	p.data(1, make([]byte, 200_000))
	if err := p.ws.Close(websocket.StatusNormalClosure, ""); err != nil {
		t.Errorf("closing: %v", err)
	}
	waitFor(t, func() bool { return f.functions.running.Load() == 0 })
	if called.Load() {
		t.Error("called with half an input")
	}
}

func TestV2CancelEndsTheJail(t *testing.T) {
	f := setup(t)
	id, _ := f.echoV2()
	started, ended := make(chan struct{}), make(chan struct{})
	f.functions.handle = func(ctx context.Context, _ *process, _ []byte) ([]byte, error) {
		close(started)
		<-ctx.Done()
		close(ended)
		return nil, ctx.Err()
	}
	p, _ := f.accepted("/v1/run/"+id, opening("bob", nil))
	p.input(1, []byte("x"))
	p.input(2, []byte("y"))
	p.input(3, []byte("z"))
	<-started
	p.send(&wire.Cancel{ID: 1})
	<-ended
	for i := range uint64(3) {
		p.refused(i+1, wire.CodeUnavailable)
	}
	if code := p.closed(); code != websocket.StatusNormalClosure {
		t.Errorf("closed with %d", code)
	}
	waitFor(t, func() bool { return f.functions.running.Load() == 0 })
}

func TestV2Failures(t *testing.T) {
	boom := &handler.FunctionError{Type: "ValueError", Message: "no bad", Traceback: "Traceback: line 3"}
	tests := []struct {
		name   string
		token  string
		key    bool
		err    error
		code   string
		holds  string
		lacks  string
		goesOn bool
	}{
		{"owner's authority sees the traceback", "alice", true, boom, wire.CodeFunctionError, "ValueError: no bad\nTraceback: line 3", "", true},
		{"owner's token does not", "alice", false, boom, wire.CodeFunctionError, "ValueError: no bad", "Traceback", true},
		{"others do not", "bob", false, boom, wire.CodeFunctionError, "ValueError: no bad", "Traceback", true},
		{"timeout", "bob", false, handler.ErrTimeout, wire.CodeTimeout, "too long", "", false},
		{"out of memory", "bob", false, handler.ErrOutOfMemory, wire.CodeOutOfMemory, "memory", "", false},
		{"too large", "bob", false, handler.ErrTooLarge, wire.CodeTooLarge, "input", "", true},
		{"too large a result", "bob", false, handler.ErrResultTooLarge, wire.CodeTooLarge, "result", "", true},
		{"ended", "bob", false, handler.ErrEnded, wire.CodeFunctionError, "ended", "", false},
		{"unknown", "bob", false, errors.New("secret detail"), wire.CodeInternal, "enclave", "secret", false},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			f := setup(t)
			id, checksum := f.echoV2()
			f.functions.handle = func(_ context.Context, _ *process, in []byte) ([]byte, error) {
				if string(in) == "bad" {
					return nil, tt.err
				}
				return in, nil
			}
			var key *account.Key
			if tt.key {
				key = f.alice
			}
			p, _ := f.accepted("/v1/run/"+id, opening(tt.token, key))
			p.input(1, []byte("good"))
			p.result(1, []byte("good"), checksum)
			p.input(2, []byte("bad"))
			p.input(3, []byte("next"))
			got := p.refused(2, tt.code)
			if !strings.Contains(got.Message, tt.holds) || (tt.lacks != "" && strings.Contains(got.Message, tt.lacks)) {
				t.Errorf("text %q", got.Message)
			}
			if tt.goesOn {
				p.result(3, []byte("next"), checksum)
			} else {
				p.closed() // with or without a word on id 3, which may not have come yet
			}
			if s := f.logs.String(); strings.Contains(s, "bad") || strings.Contains(s, "secret") {
				t.Error("content in the log")
			}
		})
	}
}

// TestV2FailureBeforeTheWholeInputCame: the rest of it is thrown away, and the next works.
func TestV2FailureBeforeTheWholeInputCame(t *testing.T) {
	f := setup(t)
	id, checksum := f.echoV2()
	p, _ := f.accepted("/v1/run/"+id, opening("bob", nil))
	p.send(&wire.Begin{ID: 1, Kind: wire.KindInput})
	p.data(1, sealV2(t, &signingKey().PublicKey, toOwner(), false, make([]byte, 100_000))[:50_000])
	p.data(1, make([]byte, 100_000))
	p.refused(1, wire.CodeInvalidRequest)
	p.data(1, make([]byte, 1<<20))
	p.send(&wire.End{ID: 1})
	p.input(2, []byte("next"))
	p.result(2, []byte("next"), checksum)
}

func TestV2LogsGoToTheOwnerAlone(t *testing.T) {
	f := setup(t)
	signed, checksum := f.echoV2()
	unsigned := f.deploy("alice", "old", true, zipOf(t, "e/app.py", ""))
	f.functions.handle = func(_ context.Context, p *process, in []byte) ([]byte, error) {
		if p.stdout != nil {
			_, _ = p.stdout.Write(bytes.Repeat([]byte("o"), wire.MaxLogData+1))
			_, _ = p.stderr.Write([]byte("e"))
		}
		return in, nil
	}
	for _, tt := range []struct {
		name string
		id   string
		open seal.Opening
		logs bool
	}{
		{"owner's authority", signed, opening("alice", f.alice), true},
		{"owner's token", signed, opening("alice", nil), false},
		{"another", signed, opening("bob", nil), false},
		{"another's authority", signed, opening("bob", newAccount(t)), false},
		{"no account, owner's token", unsigned, opening("alice", nil), false},
		{"no account, some authority", unsigned, opening("alice", f.alice), false},
		{"no account, another", unsigned, opening("bob", nil), false},
	} {
		t.Run(tt.name, func(t *testing.T) {
			p, _ := f.accepted("/v1/run/"+tt.id, tt.open)
			p.input(1, []byte("x"))
			if tt.logs {
				for _, want := range []wire.Log{{ID: 1, Stream: "stdout", Data: bytes.Repeat([]byte("o"), wire.MaxLogData)},
					{ID: 1, Stream: "stdout", Data: []byte("o")}, {ID: 1, Stream: "stderr", Data: []byte("e")}} {
					if l, ok := p.next().(*wire.Log); !ok || l.ID != want.ID || l.Stream != want.Stream || !bytes.Equal(l.Data, want.Data) {
						t.Errorf("log %+v", l)
					}
				}
			}
			if d, ok := p.next().(dataOf); !ok || string(d.payload) != "x" {
				t.Errorf("got %+v", d)
			}
			p.result(1, []byte("x"), checksum, "x")
		})
	}
	c := f.enter("/v1/run/"+unsigned, "alice")
	c.seal([]byte("x"))
	c.result([]byte("x")) // v1 has no place for logs
}

func TestV2IdleSessionsAreClosed(t *testing.T) {
	f := setup(t, func(c *session.Config) { c.Timeouts.Idle = 1500 * time.Millisecond })
	id, checksum := f.echoV2()
	f.functions.handle = func(_ context.Context, _ *process, in []byte) ([]byte, error) {
		time.Sleep(2 * time.Second) // a handler at work is not idle
		return in, nil
	}
	p, _ := f.accepted("/v1/run/"+id, opening("bob", nil))
	p.input(1, []byte("x"))
	p.result(1, []byte("x"), checksum)
	if code := p.closed(); code != websocket.StatusNormalClosure {
		t.Errorf("closed with %d", code)
	}
	p, _ = f.accepted("/v1/run/"+id, opening("bob", nil))
	p.send(&wire.Begin{ID: 1, Kind: wire.KindInput}) // and whoever waits for a client is
	if code := p.closed(); code != websocket.StatusNormalClosure {
		t.Errorf("closed with %d", code)
	}
	waitFor(t, func() bool { return f.functions.running.Load() == 0 })
}

func TestV2SlowHandshakesAreCutOff(t *testing.T) {
	f := setup(t, func(c *session.Config) { c.Timeouts.Handshake = time.Second })
	silent := &peer{t: t, ws: f.socket("/v1/key")}
	_, halfway := f.connect("/v1/key") // hello, and then no open
	silent.closed()
	halfway.closed()
}

// TestV2HandshakesInPiecesAreCutOff: a hello that comes byte by byte takes no longer than another.
func TestV2HandshakesInPiecesAreCutOff(t *testing.T) {
	f := setup(t, func(c *session.Config) { c.Timeouts.Handshake = 300 * time.Millisecond })
	conn, err := net.Dial("tcp", f.addr)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	fmt.Fprintf(conn, "GET /v1/key HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\n"+
		"Sec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\nSec-WebSocket-Protocol: %s\r\n\r\n", wire.SubprotocolV2)
	opcode := byte(2) // binary; then its continuation, never the last
	for began := time.Now(); ; time.Sleep(20 * time.Millisecond) {
		if _, err := conn.Write([]byte{opcode, 0x81, 0, 0, 0, 0, 'x'}); err != nil {
			return
		}
		if opcode = 0; time.Since(began) > 3*time.Second {
			t.Fatal("it is still open")
		}
	}
}

func TestV2MemoryOfAllSessionsIsBounded(t *testing.T) {
	f := setup(t, func(c *session.Config) { c.Memory = 1 << 20 })
	id, checksum := f.echoV2()
	block := make(chan struct{})
	f.functions.handle = func(ctx context.Context, _ *process, in []byte) ([]byte, error) {
		if string(in) == "wait" {
			select {
			case <-block:
			case <-ctx.Done():
			}
		}
		return in, ctx.Err()
	}
	p, _ := f.accepted("/v1/run/"+id, opening("bob", nil))
	p.input(1, []byte("wait"))
	p.send(&wire.Begin{ID: 2, Kind: wire.KindInput})
	p.data(2, make([]byte, 2<<20))
	p.refused(0, wire.CodeUnavailable)
	p.closed()
	close(block)
	p, _ = f.accepted("/v1/run/"+id, opening("bob", nil))
	p.input(1, []byte("x"))
	p.result(1, []byte("x"), checksum)
}

func TestV2SuspendEndsSessions(t *testing.T) {
	f := setup(t)
	id, checksum := f.echoV2()
	p, _ := f.accepted("/v1/run/"+id, opening("bob", nil))
	p.input(1, []byte("x"))
	p.result(1, []byte("x"), checksum)
	f.server.Suspend()
	if code := p.closed(); code != websocket.StatusGoingAway {
		t.Errorf("closed with %d", code)
	}
	waitFor(t, func() bool { return f.functions.running.Load() == 0 })
}

// TestV2ClientsThatDoNotRead hold nothing for long.
func TestV2ClientsThatDoNotRead(t *testing.T) {
	f := setup(t, func(c *session.Config) { c.Timeouts.Write = 50 * time.Millisecond; c.Limits.Output = 64 << 20 })
	id, _ := f.echoV2()
	f.functions.handle = func(context.Context, *process, []byte) ([]byte, error) { return make([]byte, 64<<20), nil }
	p, _ := f.accepted("/v1/run/"+id, opening("bob", nil))
	p.input(1, nil)
	p.send(&wire.Window{ID: 1, Bytes: wire.MaxCredit - wire.InitialCredit})
	waitFor(t, func() bool { return f.functions.running.Load() == 1 })
	waitFor(t, func() bool { return f.functions.running.Load() == 0 })
}

// TestV2PrintsBetweenInputsBelongToNeither, and those of the next input still arrive.
func TestV2PrintsBetweenInputsBelongToNeither(t *testing.T) {
	f := setup(t)
	id, checksum := f.echoV2()
	running := make(chan *process, 2)
	f.functions.handle = func(_ context.Context, p *process, in []byte) ([]byte, error) {
		running <- p
		_, err := p.stdout.Write(in)
		return in, err
	}
	p, _ := f.accepted("/v1/run/"+id, opening("alice", f.alice))
	p.input(1, []byte("x"))
	p.result(1, []byte("x"), checksum)
	if _, err := (<-running).stdout.Write([]byte("from a thread")); err != nil {
		t.Errorf("writing: %v", err) // an error would end the log for good
	}
	p.input(2, []byte("y"))
	if l, ok := p.next().(*wire.Log); !ok || l.ID != 2 || string(l.Data) != "y" {
		t.Errorf("got %+v", l)
	}
	p.result(2, []byte("y"), checksum)
}

func TestV2OutputsBeyondTheLimitAreRefused(t *testing.T) {
	f := setup(t)
	id, _ := f.echoV2()
	f.functions.handle = func(context.Context, *process, []byte) ([]byte, error) { return make([]byte, 2<<20+1), nil }
	p, _ := f.accepted("/v1/run/"+id, opening("bob", nil))
	p.input(1, nil)
	p.refused(1, wire.CodeTooLarge)
	p.closed()
}

// TestV2Pings are answered in between, whatever is being sent.
func TestV2Pings(t *testing.T) {
	f := setup(t)
	id, checksum := f.echoV2()
	p, _ := f.accepted("/v1/run/"+id, opening("bob", nil))
	ctx, cancel := context.WithCancel(t.Context())
	pinged := make(chan error, 1)
	go func() {
		var err error
		for ctx.Err() == nil && err == nil {
			err = p.ws.Ping(ctx)
		}
		pinged <- err
	}()
	for i := uint64(1); i <= 50; i++ {
		p.input(i, []byte("x"))
		p.result(i, []byte("x"), checksum)
	}
	cancel()
	if err := <-pinged; err != nil && !errors.Is(err, context.Canceled) {
		t.Errorf("pinging: %v", err)
	}
}
