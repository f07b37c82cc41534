package session_test

import (
	"bytes"
	"context"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"testing"

	"github.com/cape-functions/cape/core/envelope"
	"github.com/cape-functions/cape/core/wire"
)

func sealV2(t *testing.T, key *rsa.PublicKey, to envelope.To, text bool, plain []byte) []byte {
	t.Helper()
	var b bytes.Buffer
	w, err := envelope.NewWriter(&b, key, to, text)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := w.Write(plain); err != nil {
		t.Fatal(err)
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

func toOwner() envelope.To { return envelope.ForOwner() }

func sealOld(t *testing.T, key *rsa.PublicKey, plain []byte) []byte {
	t.Helper()
	out, err := envelope.SealOld(key, plain, false)
	if err != nil {
		t.Fatal(err)
	}
	return out
}

func TestCapeEncryptedInputs(t *testing.T) {
	f := setup(t)
	zip := zipOf(t, "e/app.py", "x")
	id := f.deploy("alice", "echo", true, zip)
	key, bobs := f.capeKey("alice"), f.capeKey("bob")
	checksum := sha256.Sum256(zip)
	other := sha256.Sum256([]byte("other"))
	text := []byte("a secret")
	long := make([]byte, 300_000)
	rand.Read(long)
	changed := func(b []byte, at int) []byte { b[at] ^= 1; return b }
	tests := []struct {
		name  string
		token string
		input []byte
		want  []byte
		code  string
	}{
		{"old form", "bob", sealOld(t, key, text), text, ""},
		{"old form, with newline", "bob", append(sealOld(t, key, text), '\n'), text, ""},
		{"old form, empty", "bob", sealOld(t, key, nil), []byte{}, ""},
		{"old form, long", "bob", sealOld(t, key, long), long, ""},
		{"old form, caller's key", "bob", sealOld(t, bobs, text), nil, wire.CodeInvalidRequest},
		{"old form, garbage", "bob", []byte("cape:hello"), nil, wire.CodeInvalidRequest},
		{"old form, recorded deploy", "bob", sealOld(t, key, zip), nil, wire.CodeInvalidRequest},
		{"old form, recorded deploy without folder", "alice", sealOld(t, key, zipOf(t, "app.py", "x")), nil, wire.CodeInvalidRequest},
		{"old form, another zip", "bob", sealOld(t, key, zipOf(t, "data.csv", "x")), zipOf(t, "data.csv", "x"), ""},
		{"this function", "bob", sealV2(t, key, envelope.ForFunction(checksum), false, text), text, ""},
		{"this function, text", "bob", sealV2(t, key, envelope.ForFunction(checksum), true, long), long, ""},
		{"other function", "alice", sealV2(t, key, envelope.ForFunction(other), false, text), nil, wire.CodeInvalidRequest},
		{"name of an account", "alice", sealV2(t, key, envelope.ForName(other, "echo"), false, text), nil, wire.CodeInvalidRequest},
		{"owner alone, by the owner", "alice", sealV2(t, key, envelope.ForOwner(), false, text), text, ""},
		{"owner alone, by another", "bob", sealV2(t, key, envelope.ForOwner(), false, text), nil, wire.CodeInvalidRequest},
		{"other key", "bob", sealV2(t, bobs, envelope.ForFunction(checksum), false, text), nil, wire.CodeInvalidRequest},
		{"changed", "bob", changed(sealV2(t, key, envelope.ForFunction(checksum), false, long), 900), nil, wire.CodeInvalidRequest},
		{"cut short", "bob", sealV2(t, key, envelope.ForFunction(checksum), false, long)[:270_000], nil, wire.CodeInvalidRequest},
		{"plain", "bob", []byte("cap"), []byte("cap"), ""},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			c := f.enter("/v1/run/"+id, tt.token)
			c.seal(tt.input)
			if tt.code != "" {
				c.refused(tt.code)
			} else if out := c.result(tt.input); !bytes.Equal(out, tt.want) {
				t.Errorf("the handler saw %q", out)
			}
			c.seal([]byte("next"))
			c.result([]byte("next"))
		})
	}
}

func TestHandlerIsNotCalledWithHalfAnInput(t *testing.T) {
	f := setup(t)
	zip := zipOf(t, "e/app.py", "x")
	id := f.deploy("alice", "echo", true, zip)
	called := false
	f.functions.handle = func(_ context.Context, _ *process, in []byte) ([]byte, error) {
		called = true
		return in, nil
	}
	sealed := sealV2(t, f.capeKey("alice"), envelope.ForFunction(sha256.Sum256(zip)), false, make([]byte, 300_000))
	c := f.enter("/v1/run/"+id, "bob")
	c.seal(sealed[:len(sealed)-1])
	c.refused(wire.CodeInvalidRequest)
	if called {
		t.Error("called")
	}
}

func TestInputsForOwnersWithoutAKey(t *testing.T) {
	f := setup(t)
	c := f.enter("/v1/test", "bob")
	c.seal(zipOf(t, "e/app.py", "x"))
	c.seal(sealOld(t, f.capeKey("alice"), []byte("x")))
	c.refused(wire.CodeInvalidRequest)
}

func TestCapeEncryptInsideTheFunction(t *testing.T) {
	f := setup(t)
	zip := zipOf(t, "e/app.py", "x")
	id := f.deploy("alice", "echo", true, zip)
	key := f.capeKey("alice")
	type call struct {
		method string
		arg    []byte
	}
	results := make(chan []byte, 1)
	f.functions.handle = func(ctx context.Context, p *process, in []byte) ([]byte, error) {
		sealed, err := p.rpc(ctx, "CapeEncryptRPC.Encrypt", in)
		if err != nil {
			return nil, err
		}
		plain, err := p.rpc(ctx, "CapeEncryptRPC.Decrypt", sealed)
		if err != nil {
			return nil, err
		}
		for _, bad := range []call{
			{"CapeEncryptRPC.Decrypt", []byte("plain")},
			{"CapeEncryptRPC.Decrypt", sealOld(t, key, zip)},
			{"CapeEncryptRPC.Decrypt", sealV2(t, key, envelope.ForFunction([32]byte{1}), true, in)},
			{"CapeEncryptRPC.Keys", nil},
		} {
			if out, err := p.rpc(ctx, bad.method, bad.arg); err == nil || out != nil {
				t.Errorf("%s of %.20q was answered", bad.method, bad.arg)
			}
		}
		results <- sealed
		return plain, nil
	}
	c := f.enter("/v1/run/"+id, "bob")
	c.seal([]byte("x"))
	if out := c.result([]byte("x")); string(out) != "x" {
		t.Errorf("came back as %q", out)
	}
	if sealed := <-results; envelope.Detect(sealed) != envelope.Old {
		t.Error("published cape_encrypt reads the old form")
	}
}
