package session_test

import (
	"context"
	"crypto/sha256"
	"errors"
	"net"
	"net/http"
	"testing"
	"time"

	"github.com/cape-functions/cape/core/attest"
	"github.com/cape-functions/cape/core/seal"
	"github.com/cape-functions/cape/core/wire"
)

// TestVouch: before the KEK was inspected the enclave shows its document, with a policy that no client takes, and then serves nothing.
func TestVouch(t *testing.T) {
	f := setup(t)
	f.server.Suspend()
	l, err := (&net.ListenConfig{}).Listen(t.Context(), "tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	f.addr = l.Addr().String()
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan struct{})
	go func() {
		defer close(done)
		f.server.Vouch(ctx, l)
	}()
	route := "/v1/run/" + wire.FunctionID([]byte("any"))
	caller, err := seal.NewCaller(route)
	if err != nil {
		t.Fatal(err)
	}
	p := &peer{t: t, ws: f.socket(route)}
	p.frame(caller.Hello())
	a, err := caller.Receive(p.read())
	if err != nil {
		t.Fatal(err)
	}
	evidence, err := attest.Verify(nil, a.Document, f.enclave.Accepts(caller.Nonce()), time.Now())
	if err != nil {
		t.Fatal(err)
	}
	if len(a.Policy) != 0 {
		t.Error("it vouched for a policy that nobody had inspected")
	}
	claim, err := wire.ParseSessionClaim(evidence.Document.UserData)
	if none := sha256.Sum256(nil); err != nil || string(claim.Policy) != string(none[:]) {
		t.Errorf("the document claims a policy: %v", err)
	}
	if _, err := caller.Bind(evidence, f.enclave.Authority.Root); err == nil {
		t.Error("a client would go on")
	}
	var refused *wire.RemoteError
	if _, err := wire.ParseAttest(p.read()); !errors.As(err, &refused) || refused.Code != wire.CodeUnavailable {
		t.Errorf("after the document: %v", err)
	}
	if _, resp, body := f.dial(route, wire.SubprotocolRuntime, "alice"); resp == nil || resp.StatusCode != http.StatusServiceUnavailable || body.Code != wire.CodeUnavailable {
		t.Errorf("v1 was answered: %+v", body)
	}
	held := f.socket(route)
	cancel()
	<-done
	if _, _, err := held.Read(t.Context()); err == nil {
		t.Error("a connection outlived the inspection")
	}
}
