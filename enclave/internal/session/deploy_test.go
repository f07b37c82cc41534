package session_test

import (
	"bytes"
	"context"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/coder/websocket"

	"github.com/cape-functions/cape/core/attest/nitro"
	"github.com/cape-functions/cape/core/envelope"
	"github.com/cape-functions/cape/core/wire"
	"github.com/cape-functions/cape/enclave/internal/handler"
	"github.com/cape-functions/cape/enclave/internal/intake"
	"github.com/cape-functions/cape/enclave/internal/session"
	vaultkit "github.com/cape-functions/cape/enclave/internal/vault/testkit"
)

func TestDeploysThatAreRefused(t *testing.T) {
	f := setup(t)
	key := f.capeKey("alice")
	stranger, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		t.Fatal(err)
	}
	seal := func(key *rsa.PublicKey, plain []byte) []byte {
		out, err := envelope.SealOld(key, plain, true)
		if err != nil {
			t.Fatal(err)
		}
		return out
	}
	zip := zipOf(t, "echo/app.py", "")
	sound := seal(key, zip)
	tests := []struct {
		name  string
		head  wire.DeployV1
		body  []byte
		check error
		host  string
		code  string
	}{
		{"no name", wire.DeployV1{}, nil, nil, "", wire.CodeInvalidFunction},
		{"name that is a path", wire.DeployV1{Name: "a/b"}, nil, nil, "", wire.CodeInvalidFunction},
		{"name too long", wire.DeployV1{Name: strings.Repeat("n", 129)}, nil, nil, "", wire.CodeInvalidFunction},
		{"sealed to another key", wire.DeployV1{Name: "n"}, seal(&stranger.PublicKey, zip), nil, "", wire.CodeInvalidRequest},
		{"garbage", wire.DeployV1{Name: "n"}, []byte("cape:garbage"), nil, "", wire.CodeInvalidRequest},
		{"plain zip", wire.DeployV1{Name: "n"}, zip, nil, "", wire.CodeInvalidRequest},
		{"empty", wire.DeployV1{Name: "n"}, []byte{}, nil, "", wire.CodeInvalidRequest},
		{"cut short", wire.DeployV1{Name: "n"}, sound[:len(sound)-1], nil, "", wire.CodeInvalidRequest},
		{"not a function", wire.DeployV1{Name: "n"}, sound, fmt.Errorf("%w: there is no app.py", intake.ErrInvalid), "", wire.CodeInvalidFunction},
		{"check fails", wire.DeployV1{Name: "n"}, sound, errors.New("secret"), "", wire.CodeInternal},
		{"larger than a function", wire.DeployV1{Name: "n"}, seal(key, make([]byte, 1<<20+1)), nil, "", wire.CodeTooLarge},
		{"larger than a frame", wire.DeployV1{Name: "n"}, make([]byte, 1<<20+wire.EnvelopeOverhead+1), nil, "", wire.CodeTooLarge},
		{"disk full", wire.DeployV1{Name: "n"}, sound, nil, wire.CodeQuota, wire.CodeQuota},
		{"host away", wire.DeployV1{Name: "n"}, sound, nil, wire.CodeUnavailable, wire.CodeUnavailable},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			f.functions.check = func([]byte) error { return tt.check }
			f.host.Intercept = func(w http.ResponseWriter, r *http.Request) bool {
				if tt.host == "" || r.Method != http.MethodPut {
					return false
				}
				vaultkit.Refuse(w, tt.host)
				return true
			}
			c := f.enter("/v1/deploy", "alice")
			c.send(tt.head)
			if tt.body != nil {
				_ = c.ws.Write(t.Context(), websocket.MessageBinary, tt.body)
			}
			if got := c.refused(tt.code); strings.Contains(got.Text, "secret") || got.Text == "" {
				t.Errorf("text %q", got.Text)
			}
			c.closed()
			if len(f.host.Functions) != 0 {
				t.Error("something was stored")
			}
		})
	}
	f.functions.check, f.host.Intercept = nil, nil
	f.deploy("alice", "echo", false, zip)
}

func TestDeployBeforeTheKeyWasMade(t *testing.T) {
	f := setup(t)
	c := f.enter("/v1/deploy", "alice")
	c.send(wire.DeployV1{Name: "n"})
	c.write(websocket.MessageBinary, make([]byte, 1000))
	c.refused(wire.CodeInvalidRequest)
	if f.keys.Pairs() != 0 {
		t.Error("a key was made that nobody could have sealed to")
	}
}

func TestDroppedDeployStoresNothing(t *testing.T) {
	f := setup(t)
	f.capeKey("alice")
	c := f.enter("/v1/deploy", "alice")
	c.send(wire.DeployV1{Name: "n"})
	w, err := c.ws.Writer(t.Context(), websocket.MessageBinary)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := w.Write(make([]byte, 500_000)); err != nil {
		t.Fatal(err)
	}
	c.ws.CloseNow()
	f.deploy("alice", "next", false, zipOf(t, "e/app.py", ""))
	if len(f.host.Functions) != 1 {
		t.Errorf("%d functions", len(f.host.Functions))
	}
}

func TestTestRunsWithoutStoring(t *testing.T) {
	f := setup(t)
	zip := zipOf(t, "e/app.py", "")
	c := f.enter("/v1/test", "alice")
	c.seal(zip)
	c.seal([]byte("input"))
	if out := c.result([]byte("input")); string(out) != "input" {
		t.Errorf("got %q", out)
	}
	if code := c.closed(); code != websocket.StatusNormalClosure {
		t.Errorf("closed with %d", code)
	}
	if len(f.host.Functions) != 0 || len(f.host.Keys) != 0 {
		t.Error("something was stored")
	}
	waitFor(t, func() bool { return f.functions.running.Load() == 0 })
	f.functions.check = func([]byte) error { return fmt.Errorf("%w: app.py does not compile", intake.ErrInvalid) }
	c = f.enter("/v1/test", "alice")
	c.seal(zip)
	c.refused(wire.CodeInvalidFunction)
	c = f.enter("/v1/test", "alice")
	c.write(websocket.MessageBinary, zip)
	c.refused(wire.CodeInvalidRequest)
}

// TestTestsShowNoTraceback: what version 1 answers passes the host in clear.
func TestTestsShowNoTraceback(t *testing.T) {
	f := setup(t)
	f.functions.handle = func(context.Context, *process, []byte) ([]byte, error) {
		return nil, &handler.FunctionError{Type: "ValueError", Message: "no bad", Traceback: "Traceback: line 3"}
	}
	c := f.enter("/v1/test", "alice")
	c.seal(zipOf(t, "e/app.py", ""))
	c.seal([]byte("bad"))
	if got := c.refused(wire.CodeFunctionError); !strings.Contains(got.Text, "ValueError: no bad") || strings.Contains(got.Text, "Traceback") {
		t.Errorf("text %q", got.Text)
	}
}

func TestMemoryOfAllSessionsIsBounded(t *testing.T) {
	f := setup(t, func(c *session.Config) { c.Memory = 1 << 20 })
	c := f.enter("/v1/test", "alice")
	_ = c.ws.Write(t.Context(), websocket.MessageBinary, make([]byte, 1<<20))
	c.refused(wire.CodeUnavailable)
	c = f.enter("/v1/test", "alice") // small ones need none of it
	c.seal(zipOf(t, "e/app.py", ""))
	c.seal([]byte("x"))
	c.result([]byte("x"))
}

// TestInputsCountUntilTheyAreAnswered: also after they were opened, and twice meanwhile.
func TestInputsCountUntilTheyAreAnswered(t *testing.T) {
	f := setup(t, func(c *session.Config) { c.Memory = 5 << 20 }) // of which one user gets 2.5 MiB
	id := f.deploy("alice", "echo", true, zipOf(t, "e/app.py", ""))
	working, done := make(chan struct{}, 4), make(chan struct{})
	f.functions.handle = func(context.Context, *process, []byte) ([]byte, error) {
		working <- struct{}{}
		select {
		case <-done:
		case <-time.After(5 * time.Second):
		}
		return nil, nil
	}
	first, second := f.enter("/v1/run/"+id, "bob"), f.enter("/v1/run/"+id, "bob")
	in := make([]byte, 1<<20)
	first.seal(in)
	<-working
	second.seal(in)
	second.refused(wire.CodeUnavailable)
	close(done)
	first.result(in)
	second = f.enter("/v1/run/"+id, "bob")
	second.seal(in)
	<-working
	second.result(in)
	if reserve := f.functions.last.Reserve; reserve == nil {
		t.Error("large requests of functions do not count")
	} else if _, err := reserve(6 << 20); err == nil {
		t.Error("a function may have more than its caller")
	}
}

func TestKeyDocuments(t *testing.T) {
	f := setup(t)
	get := func(user string) (int, []byte) {
		resp, err := http.Get("http://" + f.addr + "/v1/user/" + user + "/key")
		if err != nil {
			t.Fatal(err)
		}
		defer resp.Body.Close()
		var body struct {
			Document []byte `json:"attestation_document"`
		}
		if err := json.NewDecoder(resp.Body).Decode(&body); err != nil {
			t.Fatal(err)
		}
		return resp.StatusCode, body.Document
	}
	for _, user := range []string{"alice", "a%2fb", strings.Repeat("a", 65)} {
		if status, _ := get(user); status != http.StatusNotFound {
			t.Errorf("%s before any session: %d", user, status)
		}
	}
	key := f.capeKey("alice")
	if again := f.capeKey("alice"); !again.Equal(key) {
		t.Error("another key the second time")
	}
	status, raw := get("alice")
	if status != http.StatusOK {
		t.Fatalf("status %d", status)
	}
	s, err := nitro.Parse(raw)
	if err != nil {
		t.Fatal(err)
	}
	var user wire.UserDataV1
	if err := json.Unmarshal(s.Document.UserData, &user); err != nil {
		t.Fatal(err)
	}
	der, err := x509.MarshalPKIXPublicKey(key)
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(user.Key, der) || user.FuncChecksum != nil || user.SignatureKey != nil {
		t.Errorf("user data %+v", user)
	}
	_, other := get("alice")
	o, err := nitro.Parse(other)
	if err != nil {
		t.Fatal(err)
	}
	if len(o.Document.Nonce) < 16 || bytes.Equal(o.Document.Nonce, s.Document.Nonce) {
		t.Error("nonces are to be fresh")
	}
}
