package session_test

import (
	"context"
	"net/http"
	"testing"
	"time"

	"github.com/coder/websocket"

	"github.com/cape-functions/cape/core/seal"
	"github.com/cape-functions/cape/core/wire"
	"github.com/cape-functions/cape/enclave/internal/session"
)

func TestExactlyTheLimitIsAccepted(t *testing.T) {
	f := setup(t)
	id := f.deploy("alice", "echo", true, zipOf(t, "e/app.py", ""))
	c := f.enter("/v1/run/"+id, "alice")
	in := make([]byte, 1<<20)
	c.seal(in)
	c.result(in)
	f.functions.handle = func(context.Context, *process, []byte) ([]byte, error) { return make([]byte, 2<<20+1), nil }
	c.seal(in[:1])
	c.refused(wire.CodeTooLarge)
}

func TestClientThatLeavesEndsItsHandler(t *testing.T) {
	f := setup(t)
	id := f.deploy("alice", "echo", true, zipOf(t, "e/app.py", ""))
	started, ended := make(chan struct{}), make(chan struct{})
	f.functions.handle = func(ctx context.Context, _ *process, _ []byte) ([]byte, error) {
		close(started)
		<-ctx.Done()
		close(ended)
		return nil, ctx.Err()
	}
	c := f.enter("/v1/run/"+id, "alice")
	c.seal([]byte("x"))
	<-started
	c.ws.CloseNow()
	select {
	case <-ended:
	case <-time.After(5 * time.Second):
		t.Fatal("the handler goes on")
	}
	waitFor(t, func() bool { return f.functions.running.Load() == 0 })
}

func TestIdleConnectionsAreClosed(t *testing.T) {
	f := setup(t, func(c *session.Config) { c.Timeouts.Idle = 1500 * time.Millisecond })
	id := f.deploy("alice", "echo", true, zipOf(t, "e/app.py", ""))
	f.functions.handle = func(_ context.Context, _ *process, in []byte) ([]byte, error) {
		time.Sleep(2 * time.Second) // a handler at work is not idle
		return in, nil
	}
	c := f.enter("/v1/run/"+id, "alice")
	c.seal([]byte("x"))
	c.result([]byte("x"))
	if code := c.closed(); code != websocket.StatusNormalClosure {
		t.Errorf("closed with %d", code)
	}
}

func TestSlowStartsAreCutOff(t *testing.T) {
	f := setup(t, func(c *session.Config) { c.Timeouts.Handshake = 50 * time.Millisecond })
	c, _, _ := f.dial("/v1/key", wire.SubprotocolRuntime, "alice")
	c.closed()
	if resp, err := http.Get("http://" + f.addr + "/healthz"); err != nil || resp.StatusCode != http.StatusOK {
		t.Errorf("health: %v", err)
	}
}

// TestClientsThatDoNotRead hold nothing for long.
func TestClientsThatDoNotRead(t *testing.T) {
	f := setup(t, func(c *session.Config) { c.Timeouts.Write = 50 * time.Millisecond })
	id := f.deploy("alice", "echo", true, zipOf(t, "e/app.py", ""))
	for _, size := range []int{200 << 10, 2 << 20} { // in one frame, and in pieces
		f.functions.handle = func(context.Context, *process, []byte) ([]byte, error) { return make([]byte, size), nil }
		c := f.enter("/v1/run/"+id, "alice")
		go func() {
			for {
				frame, err := seal.SealV1(c.doc.PublicKey, []byte("x"))
				if err != nil || c.ws.Write(t.Context(), websocket.MessageBinary, frame) != nil {
					return
				}
			}
		}()
		waitFor(t, func() bool { return f.functions.running.Load() == 1 })
		waitFor(t, func() bool { return f.functions.running.Load() == 0 })
		c.ws.CloseNow()
	}
}
