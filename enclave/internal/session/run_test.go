package session_test

import (
	"bytes"
	"context"
	"crypto/rand"
	"crypto/sha256"
	"encoding/json"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/coder/websocket"
	"github.com/google/go-cmp/cmp"

	"github.com/cape-functions/cape/core/envelope"
	"github.com/cape-functions/cape/core/seal"
	"github.com/cape-functions/cape/core/wire"
	"github.com/cape-functions/cape/enclave/internal/handler"
)

func (c *conn) check(r wire.ResultV1, input []byte) []byte {
	c.t.Helper()
	in, out := sha256.Sum256(input), sha256.Sum256(r.Message)
	if r.Type != wire.TypeResult || !bytes.Equal(r.Checksums.Input, in[:]) || !bytes.Equal(r.Checksums.Output, out[:]) {
		c.t.Errorf("checksums are not those of input and output")
	}
	if len(c.user.FuncChecksum) > 0 && !bytes.Equal(r.Checksums.Function, c.user.FuncChecksum) {
		c.t.Error("checksum of another function than the document's")
	}
	sums := seal.Checksums{Input: in, Output: out, Function: [32]byte(r.Checksums.Function)}
	if err := seal.VerifyChecksums(c.user.SignatureKey, sums, r.SignedChecksums); err != nil {
		c.t.Error(err)
	}
	return r.Message
}

// deploy stores a function and returns its id.
func (f *fixture) deploy(token, name string, public bool, zip []byte) string {
	f.t.Helper()
	key := f.capeKey(token)
	sealed, err := envelope.SealOld(key, zip, true)
	if err != nil {
		f.t.Fatal(err)
	}
	c := f.enter("/v1/deploy", token)
	c.send(wire.DeployV1{Name: name, Public: public})
	c.write(websocket.MessageBinary, sealed)
	var d wire.DeployedV1
	c.receive(&d)
	if code := c.closed(); code != websocket.StatusNormalClosure {
		f.t.Errorf("closed with %d", code)
	}
	return d.ID
}

func TestDeployAndRun(t *testing.T) {
	f := setup(t)
	zip := zipOf(t, "echo/app.py", "def cape_handler(x): return x\n")
	id := f.deploy("alice", "echo", true, zip)
	if !wire.ValidID(id) {
		t.Fatalf("id %q", id)
	}
	m, err := wire.ParseManifest(f.host.Functions[id].Head.Manifest)
	if err != nil {
		t.Fatal(err)
	}
	sum := sha256.Sum256(zip)
	want := &wire.Manifest{V: 2, Owner: alice(), Name: "echo", Access: wire.AccessPublic, Decrypt: wire.DecryptAny, Checksum: sum[:], Seq: m.Seq, Salt: m.Salt}
	if d := cmp.Diff(want, m); d != "" || m.Seq == 0 {
		t.Errorf("manifest (-want +got):\n%s", d)
	}
	for _, route := range []string{"/v1/run/" + id, "/v1/run/alice/echo"} {
		c := f.enter(route, "bob")
		policy := sha256.Sum256(f.policy)
		if !bytes.Equal(c.user.FuncChecksum, sum[:]) || !bytes.Equal(c.user.KeyChecksum, policy[:]) || c.user.Key != nil {
			t.Errorf("document says %+v", c.user)
		}
		for i := range 3 {
			in := fmt.Appendf(nil, "input %d", i)
			c.seal(in)
			if out := c.result(in); !bytes.Equal(out, in) {
				t.Errorf("got %q", out)
			}
		}
		c.seal(nil)
		if out := c.result(nil); len(out) != 0 {
			t.Errorf("empty input: %q", out)
		}
		if f.functions.running.Load() != 1 {
			t.Error("one process serves a connection")
		}
		if err := c.ws.Close(websocket.StatusNormalClosure, ""); err != nil {
			t.Errorf("closing: %v", err)
		}
		waitFor(t, func() bool { return f.functions.running.Load() == 0 })
	}
	if f.functions.starts.Load() != 2 {
		t.Error("nothing may survive a connection")
	}
}

func waitFor(t *testing.T, what func() bool) {
	t.Helper()
	for end := time.Now().Add(5 * time.Second); !what(); time.Sleep(2 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatal("it did not come to that")
		}
	}
}

func TestJailStartsWithTheFirstInput(t *testing.T) {
	f := setup(t)
	id := f.deploy("alice", "echo", true, zipOf(t, "e/app.py", ""))
	c := f.enter("/v1/run/"+id, "alice")
	if f.functions.starts.Load() != 0 {
		t.Error("started without an input")
	}
	c.seal([]byte("x"))
	c.result([]byte("x"))
}

func TestPipelinedInputsAreAnsweredInOrder(t *testing.T) {
	f := setup(t)
	id := f.deploy("alice", "echo", true, zipOf(t, "e/app.py", ""))
	c := f.enter("/v1/run/"+id, "alice")
	const n = 3 * wire.MaxPipelined
	go func() {
		for i := range n {
			frame, err := seal.SealV1(c.doc.PublicKey, fmt.Append(nil, i))
			if err != nil || c.ws.Write(t.Context(), websocket.MessageBinary, frame) != nil {
				return
			}
		}
	}()
	for i := range n {
		if out := c.result(fmt.Append(nil, i)); string(out) != fmt.Sprint(i) {
			t.Fatalf("result %d is %q", i, out)
		}
	}
}

func TestLargeResultsAreTheSameJSON(t *testing.T) {
	f := setup(t)
	id := f.deploy("alice", "echo", true, zipOf(t, "e/app.py", ""))
	c := f.enter("/v1/run/"+id, "alice")
	for _, size := range []int{1, 256 << 10, 256<<10 + 1, 768<<10 + 1, 1 << 20} {
		in := make([]byte, size)
		rand.Read(in)
		c.seal(in)
		_, frame, err := c.ws.Read(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		var r wire.ResultV1
		if err := wire.DecodeV1(frame, &r); err != nil {
			t.Fatal(err)
		}
		if !bytes.Equal(c.check(r, in), in) {
			t.Error("another output")
		}
		again, err := wire.EncodeV1(r)
		if err != nil || !bytes.Equal(again, frame) {
			t.Errorf("%d bytes: not what wire.EncodeV1 writes: %v", size, err)
		}
		var keys map[string]json.RawMessage
		if err := json.Unmarshal(frame, &keys); err != nil || len(keys) != 1 {
			t.Error("a success frame has a message and nothing else")
		}
	}
}

func TestErrorsOfFunctions(t *testing.T) {
	boom := &handler.FunctionError{Type: "ValueError", Message: "no bad", Traceback: "Traceback: line 3"}
	tests := []struct {
		name   string
		token  string
		err    error
		code   string
		holds  string
		lacks  string
		goesOn bool
	}{
		{"no traceback for the owner's token", "alice", boom, wire.CodeFunctionError, "ValueError: no bad", "Traceback", true},
		{"nor for others", "bob", boom, wire.CodeFunctionError, "ValueError: no bad", "Traceback", true},
		{"timeout", "bob", handler.ErrTimeout, wire.CodeTimeout, "too long", "", false},
		{"out of memory", "bob", handler.ErrOutOfMemory, wire.CodeOutOfMemory, "memory", "", false},
		{"too large", "bob", handler.ErrTooLarge, wire.CodeTooLarge, "input", "", true},
		{"too large a result", "bob", handler.ErrResultTooLarge, wire.CodeTooLarge, "result", "", true},
		{"ended", "bob", fmt.Errorf("%w: exit status 3", handler.ErrEnded), wire.CodeFunctionError, "ended", "", false},
		{"unknown", "bob", fmt.Errorf("secret detail"), wire.CodeInternal, "enclave", "secret", false},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			f := setup(t)
			id := f.deploy("alice", "echo", true, zipOf(t, "e/app.py", ""))
			f.functions.handle = func(ctx context.Context, p *process, in []byte) ([]byte, error) {
				if string(in) == "bad" {
					return nil, tt.err
				}
				return in, nil
			}
			c := f.enter("/v1/run/"+id, tt.token)
			c.seal([]byte("bad"))
			got := c.refused(tt.code)
			if !strings.Contains(got.Text, tt.holds) || (tt.lacks != "" && strings.Contains(got.Text, tt.lacks)) {
				t.Errorf("text %q", got.Text)
			}
			if tt.goesOn {
				c.seal([]byte("next"))
				c.result([]byte("next"))
			} else if c.closed() == websocket.StatusInternalError {
				t.Error("closed as an internal error")
			}
			next := f.enter("/v1/run/"+id, tt.token)
			next.seal([]byte("next"))
			next.result([]byte("next"))
			if strings.Contains(f.logs.String(), "bad") || strings.Contains(f.logs.String(), "secret") {
				t.Error("content in the log")
			}
		})
	}
}

// TestBadFrames: each gets its answer in its place, and what follows works, on the same
// connection where that is possible.
func TestBadFrames(t *testing.T) {
	tests := []struct {
		name string
		send func(c *conn)
		code string
		next bool
	}{
		{"garbage", func(c *conn) { c.write(websocket.MessageBinary, bytes.Repeat([]byte("x"), 100)) }, wire.CodeInvalidRequest, true},
		{"too short", func(c *conn) { c.write(websocket.MessageBinary, []byte("x")) }, wire.CodeInvalidRequest, true},
		{"empty", func(c *conn) { c.write(websocket.MessageBinary, nil) }, wire.CodeInvalidRequest, true},
		{"text", func(c *conn) { c.write(websocket.MessageText, []byte("{}")) }, wire.CodeInvalidRequest, true},
		{"bit flipped", func(c *conn) {
			frame, err := seal.SealV1(c.doc.PublicKey, []byte("hello"))
			if err != nil {
				c.t.Fatal(err)
			}
			frame[40] ^= 1
			c.write(websocket.MessageBinary, frame)
		}, wire.CodeInvalidRequest, true},
		{"too large", func(c *conn) { _ = c.ws.Write(c.t.Context(), websocket.MessageBinary, make([]byte, 1<<20+49)) }, wire.CodeTooLarge, false},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			f := setup(t)
			id := f.deploy("alice", "echo", true, zipOf(t, "e/app.py", ""))
			c := f.enter("/v1/run/"+id, "alice")
			c.seal([]byte("before"))
			c.result([]byte("before"))
			tt.send(c)
			c.refused(tt.code)
			if tt.next {
				c.seal([]byte("after"))
				c.result([]byte("after"))
			} else if code := c.closed(); code != websocket.StatusMessageTooBig {
				t.Errorf("closed with %d", code)
			}
			other := f.enter("/v1/run/"+id, "alice")
			other.seal([]byte("other"))
			other.result([]byte("other"))
		})
	}
}
