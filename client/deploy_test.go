package client_test

import (
	"bytes"
	"context"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/x509"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/cape-functions/cape/client"
	"github.com/cape-functions/cape/client/testkit"
	"github.com/cape-functions/cape/client/trust"
	"github.com/cape-functions/cape/core/attest"
	"github.com/cape-functions/cape/core/attest/nitro"
	attestkit "github.com/cape-functions/cape/core/attest/testkit"
	"github.com/cape-functions/cape/core/wire"
)

func TestDeployAndTest(t *testing.T) {
	s := testkit.New(t)
	c := connect(t, s)
	p := pack(t, folder(t, "fn", "# upper"))
	if s.Authority == nil || p.Name != "fn" || p.Files != 1 {
		t.Fatalf("package %+v", p)
	}
	d, err := c.Deploy(t.Context(), p, client.DeployOptions{Username: "ann"})
	if err != nil {
		t.Fatal(err)
	}
	if d.Name != "ann/fn" || d.Checksum != p.Checksum {
		t.Errorf("deployed %+v", d)
	}
	for _, name := range []string{d.ID, "ann/fn"} {
		r, err := c.Run(t.Context(), client.Function{Name: name, Checksum: d.Checksum[:]}, []byte("x"))
		if err != nil || string(r.Output) != "X" {
			t.Errorf("running %s: %v", name, err)
		}
	}
	r, err := c.Test(t.Context(), p, []byte("y"))
	if err != nil || string(r.Output) != "Y" || r.Checksums.Function != p.Checksum {
		t.Errorf("test: %v", err)
	}
	if d, err := c.Deploy(t.Context(), p, client.DeployOptions{Name: "other"}); err != nil || d.Name != "" {
		t.Errorf("without a username: %+v, %v", d, err)
	}
	if _, err := c.Deploy(t.Context(), p, client.DeployOptions{Name: "no/name"}); !errors.Is(err, client.ErrPackage) {
		t.Errorf("bad name: %v, want ErrPackage", err)
	}
	list, err := c.List(t.Context(), 50, 0)
	if err != nil || len(list) != 2 || list[0].Name != "other" {
		t.Fatalf("list %v, %v", list, err)
	}
	if err := c.Delete(t.Context(), list[0].ID); err != nil {
		t.Error(err)
	}
	var remote *client.RemoteError
	if err := c.Delete(t.Context(), list[0].ID); !errors.As(err, &remote) || remote.Code != wire.CodeNotFound {
		t.Errorf("deleting twice: %v, want not_found", err)
	}
	if err := c.Delete(t.Context(), "../v1"); !errors.Is(err, client.ErrFunction) {
		t.Errorf("deleting a path: %v, want ErrFunction", err)
	}
}

func TestDeployRefused(t *testing.T) {
	s := testkit.New(t)
	p := pack(t, folder(t, "fn", "# syntax error"))
	var remote *client.RemoteError
	if _, err := connect(t, s).Deploy(t.Context(), p, client.DeployOptions{}); !errors.As(err, &remote) || remote.Code != wire.CodeInvalidFunction {
		t.Errorf("error %v, want invalid_function", err)
	}
	s.Lie(func(l *testkit.Lies) {
		l.Frame = func(route string, f []byte) []byte {
			if bytes.Contains(f, []byte(`"id"`)) {
				return []byte(`{"message":{"id":"../../x"}}`)
			}
			return f
		}
	})
	if _, err := connect(t, s).Deploy(t.Context(), pack(t, folder(t, "fn", "")), client.DeployOptions{}); !errors.Is(err, client.ErrProtocol) {
		t.Errorf("a strange id: %v, want ErrProtocol", err)
	}
	s.Lie(func(l *testkit.Lies) { l.Frame = nil })
	// A lying enclave gets no function.
	for _, route := range []string{"deploy", "key"} {
		s.Lie(func(l *testkit.Lies) {
			l.Document = func(r string, d *nitro.Document) {
				if r == route {
					d.PCRs[0] = attestkit.PCR(9)
				}
			}
		})
		if _, err := connect(t, s).Deploy(t.Context(), p, client.DeployOptions{}); !errors.Is(err, attest.ErrPCR) {
			t.Errorf("%s lies: %v, want ErrPCR", route, err)
		}
	}
}

func TestKeysAndEncrypt(t *testing.T) {
	s := testkit.New(t)
	f := s.Add(testkit.Function{User: "bob", Name: "f", Zip: []byte("zip"), Public: true})
	c := connect(t, s)
	own, err := c.Key(t.Context())
	if err != nil || own.Public.N.Cmp(s.CapeKey("ann").N) != 0 || len(own.Nonce) < 16 {
		t.Fatalf("own key: %v", err)
	}
	bob, err := c.UserKey(t.Context(), "bob")
	if err != nil || bob.Public.N.Cmp(s.CapeKey("bob").N) != 0 {
		t.Fatalf("other key: %v", err)
	}
	sealed, err := bob.Encrypt([]byte("secret"))
	if err != nil || !strings.HasPrefix(string(sealed), "cape:") {
		t.Fatal(err)
	}
	r, err := c.Run(t.Context(), client.Function{Name: f.ID}, sealed)
	if err != nil || string(r.Output) != "secret" {
		t.Fatalf("encrypted input: %v", err)
	}
	if r.Checksums.Input != sha256.Sum256(sealed) {
		t.Error("the input that was signed is not the one that was sent")
	}
	s.Lie(func(l *testkit.Lies) {
		l.Sign = func(r *wire.ResultV1) { sum := sha256.Sum256([]byte("secret")); r.Checksums.Input = sum[:] }
	})
	if _, err := c.Run(t.Context(), client.Function{Name: f.ID}, sealed); !errors.Is(err, client.ErrChecksum) {
		t.Errorf("another input signed than the encrypted one that was sent: %v, want ErrChecksum", err)
	}
	s.Lie(func(l *testkit.Lies) { l.Sign = nil })
	for _, key := range []*client.CapeKey{own, bob} {
		again, err := c.StoredKey(t.Context(), key)
		if err != nil || !again.Public.Equal(key.Public) {
			t.Errorf("stored key: %v", err)
		}
	}
	if _, err := c.StoredKey(t.Context(), &client.CapeKey{Document: own.Document, Nonce: []byte("another nonce, 16+")}); !errors.Is(err, attest.ErrNonce) {
		t.Errorf("stored with another nonce: %v, want ErrNonce", err)
	}
	other := connect(t, s, func(o *client.Options) {
		p := policyOf(s)
		p.PCRs = map[int][]nitro.PCR{0: {attestkit.PCR(9)}}
		o.Trust = p
	})
	if _, err := other.StoredKey(t.Context(), own); !errors.Is(err, attest.ErrPCR) {
		t.Errorf("stored, under another policy: %v, want ErrPCR", err)
	}
	weak, err := rsa.GenerateKey(rand.Reader, 1024)
	if err != nil {
		t.Fatal(err)
	}
	weakDER, err := x509.MarshalPKIXPublicKey(&weak.PublicKey)
	if err != nil {
		t.Fatal(err)
	}
	for name, lie := range map[string]func(string, *wire.UserDataV1){
		"weak":    func(_ string, u *wire.UserDataV1) { u.Key = weakDER },
		"none":    func(_ string, u *wire.UserDataV1) { u.Key = nil },
		"garbage": func(_ string, u *wire.UserDataV1) { u.Key = []byte("key") },
	} {
		s.Lie(func(l *testkit.Lies) { l.UserData = lie })
		if _, err := c.Key(t.Context()); !errors.Is(err, attest.ErrField) {
			t.Errorf("%s: %v, want ErrField", name, err)
		}
	}
	if _, err := c.UserKey(t.Context(), "nobody/key"); !errors.Is(err, client.ErrFunction) {
		t.Errorf("bad username: %v, want ErrFunction", err)
	}
}

// TestUploadBreaks: what the server says counts, even if it stops reading.
func TestUploadBreaks(t *testing.T) {
	s := testkit.New(t)
	dir := folder(t, "fn", "")
	noise := make([]byte, 8<<20)
	rand.Read(noise)
	if err := os.WriteFile(filepath.Join(dir, "noise"), noise, 0o600); err != nil {
		t.Fatal(err)
	}
	p := pack(t, dir)
	s.Lie(func(l *testkit.Lies) { l.RefuseUpload = &wire.RemoteError{Code: wire.CodeQuota, Text: "full"} })
	var remote *client.RemoteError
	if _, err := connect(t, s).Deploy(t.Context(), p, client.DeployOptions{}); !errors.As(err, &remote) || remote.Code != wire.CodeQuota {
		t.Errorf("refused: %v, want quota", err)
	}
	s.Lie(func(l *testkit.Lies) { l.RefuseUpload, l.DropUpload = nil, true })
	if _, err := connect(t, s).Deploy(t.Context(), p, client.DeployOptions{}); !errors.Is(err, client.ErrClosed) {
		t.Errorf("dropped: %v, want ErrClosed", err)
	}
	s.Lie(func(l *testkit.Lies) { l.DropUpload = false })
	var last, total int64
	p.Progress = func(d, t int64) { last, total = d, t }
	if _, err := connect(t, s).Deploy(t.Context(), p, client.DeployOptions{}); err != nil || last != total || last < 8<<20 {
		t.Errorf("afterwards: %v, %d of %d", err, last, total)
	}
}

// slowJudge takes its time, as one that asks somebody does.
type slowJudge struct {
	trust.Policy
	think func()
}

func (j slowJudge) Enclave(ctx context.Context, c trust.Contact) (*attest.Evidence, error) {
	j.think()
	return j.Policy.Enclave(ctx, c)
}

// TestSlowJudge: servers close idle sessions, so one that idled meanwhile is not used.
func TestSlowJudge(t *testing.T) {
	s := testkit.New(t)
	f := s.Add(testkit.Function{User: "ann", Name: "f", Zip: []byte("zip")})
	now := time.Now()
	think := time.Minute
	c := connect(t, s, func(o *client.Options) {
		o.Now = func() time.Time { return now }
		o.Trust = slowJudge{policyOf(s), func() { now = now.Add(think) }}
	})
	if _, err := c.Run(t.Context(), client.Function{Name: f.ID}, nil); err != nil {
		t.Fatal(err)
	}
	if n := len(s.Requests()); n != 2 {
		t.Errorf("%d connections, want a second one after the judge took long", n)
	}
	think = 15 * time.Second // quick enough for one session, too slow for a deploy of two
	before := len(s.Requests())
	if _, err := c.Deploy(t.Context(), pack(t, folder(t, "fn", "")), client.DeployOptions{}); err != nil {
		t.Fatal(err)
	}
	if n := len(s.Requests()) - before; n != 2 {
		t.Errorf("%d connections for a deploy, want 2", n)
	}
	think = 0
	slow := false
	c = connect(t, s, func(o *client.Options) {
		o.Now = func() time.Time { return now }
		o.Trust = slowJudge{policyOf(s), func() {
			if slow {
				now = now.Add(time.Minute)
			}
			slow = !slow
		}}
	})
	before = len(s.Requests())
	if _, err := c.Deploy(t.Context(), pack(t, folder(t, "fn", "")), client.DeployOptions{}); err != nil {
		t.Fatal(err)
	}
	if n := len(s.Requests()) - before; n < 4 {
		t.Errorf("%d connections for a deploy with a slow key, want a fresh session", n)
	}
}
