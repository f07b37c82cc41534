package session_test

import (
	"bytes"
	"crypto/rand"
	"crypto/sha256"
	"fmt"
	"testing"

	"github.com/coder/websocket"
	"github.com/google/go-cmp/cmp"

	"github.com/cape-functions/cape/core/wire"
)

func TestV2DeployAndRun(t *testing.T) {
	f := setup(t)
	zip := zipOf(t, "echo/app.py", "def cape_handler(x): return x\n")
	m := f.manifest("echo", zip)
	m.Access = wire.AccessPublic
	id := f.deployV2(m, zip)
	sum := sha256.Sum256(zip)
	raw, sig, err := f.alice.SignManifest(m)
	if err != nil {
		t.Fatal(err)
	}
	public := f.alice.Public()
	limits := wire.DefaultLimits()
	limits.Input, limits.Output, limits.Zip = 1<<20, 2<<20, 1<<20
	want := &wire.Accepted{Fn: sum[:], Manifest: raw, Sig: sig, Key: public[:], Python: "3.11", Platform: "linux-x86_64", Limits: limits}
	for _, route := range []string{"/v1/run/" + id, "/v1/run/alice/echo"} {
		p, a := f.accepted(route, opening("bob", nil))
		if d := cmp.Diff(want, a); d != "" {
			t.Errorf("accepted (-want +got):\n%s", d)
		}
		for i := uint64(1); i <= 3; i++ {
			in := fmt.Appendf(nil, "input %d", i)
			p.input(i, in)
			if out := p.result(i, in, sum); !bytes.Equal(out, in) {
				t.Errorf("got %q", out)
			}
		}
		p.input(4, nil)
		if out := p.result(4, nil, sum); len(out) != 0 {
			t.Errorf("empty input: %q", out)
		}
		if f.functions.running.Load() != 1 {
			t.Error("one process serves a connection")
		}
		if err := p.ws.Close(websocket.StatusNormalClosure, ""); err != nil {
			t.Errorf("closing: %v", err)
		}
		waitFor(t, func() bool { return f.functions.running.Load() == 0 })
	}
	if f.functions.starts.Load() != 2 {
		t.Error("nothing may survive a connection")
	}
}

func TestV2LargeInputsAndOutputs(t *testing.T) {
	f := setup(t)
	zip := zipOf(t, "echo/app.py", "")
	id := f.deployV2(f.manifest("echo", zip), zip)
	p, _ := f.accepted("/v1/run/"+id, opening("alice", nil))
	for i, size := range []int{1, 65535, 65536, 65537, 262143, 262144, 262145, 1 << 20} {
		in := make([]byte, size)
		rand.Read(in)
		p.input(uint64(i+1), in)
		if out := p.result(uint64(i+1), in, sha256.Sum256(zip)); !bytes.Equal(out, in) {
			t.Errorf("%d bytes: another output of %d", size, len(out))
		}
	}
}
