package boot_test

import (
	"crypto/rsa"
	"crypto/sha256"
	"crypto/x509"
	"errors"
	"net/http"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/cape-functions/cape/core/attest/nitro"
	"github.com/cape-functions/cape/core/envelope"
	"github.com/cape-functions/cape/core/wire"
	"github.com/cape-functions/cape/enclave/internal/boot"
	"github.com/cape-functions/cape/enclave/internal/keyring"
)

func (w *world) capeKey(t testing.TB) *rsa.PublicKey {
	t.Helper()
	key, err := x509.ParsePKIXPublicKey(w.session(t, "/v1/key", w.token(nil)).user.Key)
	if err != nil {
		t.Fatal(err)
	}
	return key.(*rsa.PublicKey)
}

func (w *world) deploy(t testing.TB, name string, zip []byte) (string, error) {
	t.Helper()
	sealed, err := envelope.SealOld(w.capeKey(t), zip, true)
	if err != nil {
		t.Fatal(err)
	}
	s := w.session(t, "/v1/deploy", w.token(nil))
	s.send(wire.DeployV1{Name: name, Public: true})
	s.binary(sealed)
	var d wire.DeployedV1
	err = s.receive(&d)
	return d.ID, err
}

const app = `
import os, sys, time
def cape_handler(x):
    x = x.decode()
    if x == "raise": raise ValueError("no bad")
    if x == "exit": sys.exit(3)
    if x == "os-exit": os._exit(3)
    if x == "kill": os.kill(os.getpid(), 9)
    if x == "hang":
        while True: time.sleep(1)
    if x == "none": return None
    if x == "print":
        print("garbage " * 10000); sys.stdout.flush(); os.write(1, b"\x00\xff" * 1000)
    return x
`

// TestWholeLife boots a runtime without a key, then one that serves, with real Python.
func TestWholeLife(t *testing.T) {
	w := newWorld(t)
	w.born()
	w.message(wire.ModeServe)
	stop := w.start()
	if resp, err := w.http().Get("http://enclave/healthz"); err != nil || resp.StatusCode != http.StatusOK {
		t.Fatalf("health: %v", err)
	}
	zip := zipOf(t, map[string]string{"fn/app.py": app})
	id, err := w.deploy(t, "fn", zip)
	if err != nil {
		t.Fatal(err)
	}
	t.Run("document", func(t *testing.T) { w.checkDocument(t, id, zip) })
	t.Run("inputs", func(t *testing.T) { w.checkInputs(t, id) })
	t.Run("bad functions", func(t *testing.T) { w.checkBadFunctions(t) })
	t.Run("encrypted input", func(t *testing.T) {
		sealed, err := envelope.SealOld(w.capeKey(t), []byte("secret"), false)
		if err != nil {
			t.Fatal(err)
		}
		if out, remote := w.session(t, "/v1/run/dev/fn", w.token(nil)).invoke(sealed); out != "secret" {
			t.Errorf("got %q, %v", out, remote)
		}
	})
	began := time.Now()
	if err := stop(); err != nil {
		t.Errorf("stopping: %v", err)
	}
	if d := time.Since(began); d > 2*time.Second {
		t.Errorf("stopping took %s", d)
	}
	logs := w.logs.String()
	for _, s := range []string{"secret", "no bad", "garbage", id, "dev|1"} {
		if strings.Contains(logs, s) {
			t.Errorf("the log holds %q", s)
		}
	}
	t.Run("again", func(t *testing.T) { w.checkNextRuntime(t, id) })
}

func (w *world) checkDocument(t *testing.T, id string, zip []byte) {
	s := w.session(t, "/v1/run/"+id, w.token(nil))
	want, err := wire.ExpectedPCR16(w.cfg.Trust)
	if err != nil {
		t.Fatal(err)
	}
	if s.doc.PCRs[wire.TrustPCR] != nitro.PCR(want) || len(s.doc.PCRs) != nitro.MaxPCRs {
		t.Errorf("PCR16 is %s among %d", s.doc.PCRs[wire.TrustPCR], len(s.doc.PCRs))
	}
	sum, policy := sha256.Sum256(zip), sha256.Sum256(w.birth.Policy)
	if string(s.user.FuncChecksum) != string(sum[:]) || string(s.user.KeyChecksum) != string(policy[:]) {
		t.Error("another checksum")
	}
}

func (w *world) checkInputs(t *testing.T, id string) {
	tests := []struct {
		input, output, code, holds string
		goesOn                     bool
	}{
		{"hello", "hello", "", "", true},
		{"none", "None", "", "", true},
		{"print", "print", "", "", true},
		{"raise", "", wire.CodeFunctionError, "ValueError: no bad", true},
		{"exit", "", wire.CodeFunctionError, "", false},
		{"os-exit", "", wire.CodeFunctionError, "", false},
		{"kill", "", wire.CodeFunctionError, "", false},
		{"hang", "", wire.CodeTimeout, "", false},
	}
	for _, tt := range tests {
		t.Run(tt.input, func(t *testing.T) {
			s := w.session(t, "/v1/run/"+id, w.token(nil))
			out, remote := s.invoke([]byte(tt.input))
			if tt.code == "" {
				if remote != nil || out != tt.output {
					t.Fatalf("got %q, %v", out, remote)
				}
			} else if remote == nil || remote.Code != tt.code || !strings.Contains(remote.Text, tt.holds) {
				t.Fatalf("got %q, %+v", out, remote)
			}
			if !tt.goesOn {
				s = w.session(t, "/v1/run/"+id, w.token(nil))
			}
			if out, remote := s.invoke([]byte("next")); out != "next" {
				t.Errorf("next: %q, %v", out, remote)
			}
		})
	}
	for who, claims := range map[string]map[string]any{"the owner": nil, "another": {"sub": "other|2"}} {
		s := w.session(t, "/v1/run/"+id, w.token(claims))
		if _, remote := s.invoke([]byte("raise")); remote == nil || strings.Contains(remote.Text, "Traceback") {
			t.Errorf("%s: %+v", who, remote)
		}
	}
}

func (w *world) checkBadFunctions(t *testing.T) {
	tests := []struct {
		name string
		zip  []byte
	}{
		{"no app.py", zipOf(t, map[string]string{"fn/main.py": app})},
		{"no handler", zipOf(t, map[string]string{"fn/app.py": "x = 1\n"})},
		{"syntax error", zipOf(t, map[string]string{"fn/app.py": "def cape_handler(:\n"})},
		{"path that escapes", zipOf(t, map[string]string{"fn/app.py": app, "fn/../../x": ""})},
		{"absolute path", zipOf(t, map[string]string{"fn/app.py": app, "/etc/x": ""})},
		{"not a zip", []byte("hello")},
		{"empty", zipOf(t, nil)},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			_, err := w.deploy(t, "bad", tt.zip)
			var remote *wire.RemoteError
			if !errors.As(err, &remote) || remote.Code != wire.CodeInvalidFunction || remote.Text == "" {
				t.Errorf("got %v", err)
			}
		})
	}
}

// checkNextRuntime: what one runtime stored, the next one reads.
func (w *world) checkNextRuntime(t *testing.T, id string) {
	w.start()
	if out, remote := w.session(t, "/v1/run/"+id, w.token(nil)).invoke([]byte("hello")); out != "hello" {
		t.Errorf("got %q, %v", out, remote)
	}
}

func TestBootsThatAreRefused(t *testing.T) {
	w := newWorld(t)
	w.born()
	sound, text := *w.birth, w.kms.Key(w.birth.KMS).Policy
	tests := []struct {
		name   string
		before func(t *testing.T)
		want   error
	}{
		{"no birth document", func(*testing.T) { w.message(wire.ModeServe, func(b *wire.Boot) { b.Birth = nil }) }, boot.ErrHost},
		{"other mode", func(*testing.T) { w.message(wire.ModeServe, func(b *wire.Boot) { b.Mode = "debug" }) }, boot.ErrHost},
		{"garbage for configuration", func(*testing.T) { w.message(wire.ModeServe, func(b *wire.Boot) { b.Config = []byte("x") }) }, wire.ErrMalformed},
		{"other birth document", func(*testing.T) {
			w.message(wire.ModeServe, func(b *wire.Boot) { b.Birth = append([]byte{}, b.Birth[:len(b.Birth)-1]...) })
		}, keyring.ErrBirth},
		{"another issuer", func(*testing.T) {
			w.cfg.Trust.Issuers[0].Iss = "evil"
			w.message(wire.ModeServe)
			w.cfg.Trust.Issuers[0].Iss = issuer
		}, keyring.ErrOtherTrust},
		{"key with a grant", func(*testing.T) {
			w.message(wire.ModeServe)
			w.kms.Key(sound.KMS).Grants = []any{map[string]any{"GrantId": "g"}}
		}, keyring.ErrGrants},
		{"policy with one more statement", func(*testing.T) {
			w.message(wire.ModeServe)
			w.kms.Key(sound.KMS).Policy = strings.Replace(text, `"Statement": [`, `"Statement": [{"Sid":"x","Effect":"Allow","Principal":"*","Action":"kms:*","Resource":"*"},`, 1)
		}, keyring.ErrPolicy},
		{"key of another enclave, without its birth", func(*testing.T) {
			w.message(wire.ModeServe, func(b *wire.Boot) {
				cfg := w.cfg
				cfg.KMS = w.kms.Add(text)
				b.Config, _ = wire.Marshal(cfg)
			})
		}, keyring.ErrBirth},
		{"credentials of another role", func(*testing.T) {
			w.message(wire.ModeServe)
			w.kms.Identity = "arn:aws:sts::111122223333:assumed-role/other/x"
		}, keyring.ErrIdentity},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			tt.before(t)
			err := boot.Run(t.Context(), w.parts(module()))
			if !errors.Is(err, tt.want) {
				t.Errorf("got %v, want %v", err, tt.want)
			}
			w.kms.Identity = identity
			w.kms.Key(sound.KMS).Grants, w.kms.Key(sound.KMS).Policy = nil, text
		})
	}
	t.Run("registers that somebody touched", func(t *testing.T) {
		w.message(wire.ModeServe)
		for _, i := range []int{wire.TrustPCR, 31} {
			m := module()
			m.Set(i, nitro.Extend(nitro.PCR{}, []byte("x")))
			if err := boot.Run(t.Context(), w.parts(m)); !errors.Is(err, boot.ErrRegisters) {
				t.Errorf("PCR%d: %v", i, err)
			}
		}
	})
}

// TestFunctionsThatWaitGiveWay: processes that wait ahead hold a function's folder, but not against one that is called.
func TestFunctionsThatWaitGiveWay(t *testing.T) {
	w := newWorld(t)
	w.born()
	w.cfg.Limits.Cache = 9 << 19 // four functions and a half, of which one owner may use two
	w.message(wire.ModeServe)
	stop := w.start()
	for i := range 4 {
		zip := zipOf(t, map[string]string{"fn/app.py": app, "fn/data": strings.Repeat(string(rune('a'+i)), 1<<20)})
		id, err := w.deploy(t, "fn"+string(rune('a'+i)), zip)
		if err != nil {
			t.Fatal(err)
		}
		s := w.session(t, "/v1/run/"+id, w.token(nil))
		if got, fault := s.invoke([]byte("x")); fault != nil || got != "x" {
			t.Fatalf("function %d: %q, %v", i, got, fault)
		}
		s.ws.CloseNow()
	}
	if err := stop(); err != nil {
		t.Error(err)
	}
}

func TestScratchIsEmptiedAtBoot(t *testing.T) {
	w := newWorld(t)
	w.born()
	w.message(wire.ModeServe)
	old := w.parts(module()).Scratch + "/left-over"
	if err := os.WriteFile(old, []byte("x"), 0o600); err != nil {
		t.Fatal(err)
	}
	stop := w.start()
	if _, err := os.Stat(old); !errors.Is(err, os.ErrNotExist) {
		t.Error("it is still there")
	}
	if err := stop(); err != nil {
		t.Error(err)
	}
}
