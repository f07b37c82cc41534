package client_test

import (
	"bytes"
	"context"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/x509"
	"encoding/base64"
	"errors"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync"
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

func policyOf(s *testkit.Server) trust.Policy {
	return trust.Policy{
		Roots:       [][]byte{s.Authority.Root},
		PCRs:        map[int][]nitro.PCR{0: {s.PCRs[0]}, 1: {s.PCRs[1]}, 2: {s.PCRs[2]}, 16: {s.PCRs[16]}},
		KeyPolicies: [][32]byte{s.KeyPolicy},
	}
}

func connect(t *testing.T, s *testkit.Server, change ...func(*client.Options)) *client.Client {
	t.Helper()
	o := client.Options{BaseURL: s.URL, Trust: policyOf(s), Token: client.StaticToken(testkit.Token("ann"))}
	for _, f := range change {
		f(&o)
	}
	c, err := client.New(o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(c.Close)
	return c
}

func folder(t *testing.T, name, app string) string {
	t.Helper()
	dir := filepath.Join(t.TempDir(), name)
	if err := os.Mkdir(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, "app.py"), []byte(app), 0o600); err != nil {
		t.Fatal(err)
	}
	return dir
}

func pack(t *testing.T, path string) *client.Package {
	t.Helper()
	p, err := client.Pack(t.Context(), path, t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := p.Close(); err != nil {
			t.Error(err)
		}
	})
	return p
}

func TestRun(t *testing.T) {
	s := testkit.New(t)
	f := s.Add(testkit.Function{User: "ann", Name: "up", Zip: []byte("zip"), Handler: func(in []byte) ([]byte, error) { return bytes.ToUpper(in), nil }})
	c := connect(t, s)
	big := bytes.Repeat([]byte("a"), 3<<20)
	for _, tc := range []struct {
		name, function string
		input, want    []byte
	}{
		{"by id", f.ID, []byte("hi"), []byte("HI")},
		{"by name", "ann/up", []byte("hi"), []byte("HI")},
		{"empty input", f.ID, nil, nil},
		{"large input", f.ID, big, bytes.ToUpper(big)},
	} {
		t.Run(tc.name, func(t *testing.T) {
			r, err := c.Run(t.Context(), client.Function{Name: tc.function}, tc.input)
			if err != nil {
				t.Fatal(err)
			}
			if !bytes.Equal(r.Output, tc.want) {
				t.Errorf("output of %d bytes, want %d", len(r.Output), len(tc.want))
			}
			if r.Checksums.Input != sha256.Sum256(tc.input) || r.Checksums.Output != sha256.Sum256(tc.want) || r.Checksums.Function != sha256.Sum256([]byte("zip")) {
				t.Error("checksums are not those of input, function and output")
			}
			if !r.InputCompared || r.Evidence == nil || !r.Evidence.DevelopmentRoot {
				t.Error("the result does not tell how it was verified")
			}
		})
	}
}

func TestSessionGoesOn(t *testing.T) {
	s := testkit.New(t)
	n := 0
	f := s.Add(testkit.Function{User: "ann", Name: "count", Zip: []byte("zip"), Handler: func(in []byte) ([]byte, error) {
		n++
		if string(in) == "bad" {
			return nil, errors.New("ValueError: bad")
		}
		return in, nil
	}})
	session, err := connect(t, s).Connect(t.Context(), client.Function{Name: f.ID})
	if err != nil {
		t.Fatal(err)
	}
	defer session.Close()
	if session.Checksum() != sha256.Sum256([]byte("zip")) {
		t.Error("the session does not tell the function's checksum")
	}
	var remote *client.RemoteError
	if _, err := session.Invoke(t.Context(), []byte("bad")); !errors.As(err, &remote) || remote.Code != wire.CodeFunctionError {
		t.Fatalf("error %v, want a function_error", err)
	}
	var group sync.WaitGroup
	for range 4 {
		group.Go(func() {
			if r, err := session.Invoke(t.Context(), []byte("good")); err != nil || string(r.Output) != "good" {
				t.Errorf("after an error: %v", err)
			}
		})
	}
	group.Wait()
	if n != 5 {
		t.Errorf("the handler was called %d times, want 5", n)
	}
	session.Close()
	if _, err := session.Invoke(t.Context(), nil); !errors.Is(err, client.ErrClosed) {
		t.Errorf("after Close: %v, want ErrClosed", err)
	}
}

// TestLies: nothing is sent to, and nothing believed of, a server that lies.
func TestLies(t *testing.T) {
	flip := func(b []byte) { b[len(b)-1] ^= 1 }
	stranger := attestkit.NewAuthority("stranger", time.Now())
	for _, tc := range []struct {
		name string
		lie  func(*testkit.Lies)
		want []error
		sent bool // the input was sent: the lie is in the result
	}{
		{"foreign root", func(l *testkit.Lies) { l.Authority = stranger }, []error{client.ErrAttestation, attest.ErrRoot}, false},
		{"wrong nonce", func(l *testkit.Lies) { l.Document = func(_ string, d *nitro.Document) { flip(d.Nonce) } }, []error{client.ErrAttestation, attest.ErrNonce}, false},
		{"no nonce", func(l *testkit.Lies) { l.Document = func(_ string, d *nitro.Document) { d.Nonce = nil } }, []error{client.ErrAttestation, attest.ErrNonce}, false},
		{"wrong PCR", func(l *testkit.Lies) {
			l.Document = func(_ string, d *nitro.Document) { d.PCRs[2] = attestkit.PCR(9) }
		}, []error{client.ErrAttestation, attest.ErrPCR}, false},
		{"PCR missing", func(l *testkit.Lies) { l.Document = func(_ string, d *nitro.Document) { delete(d.PCRs, 16) } }, []error{client.ErrAttestation, attest.ErrPCR}, false},
		{"debug mode", func(l *testkit.Lies) {
			l.Document = func(_ string, d *nitro.Document) {
				d.PCRs[0], d.PCRs[1], d.PCRs[2] = nitro.PCR{}, nitro.PCR{}, nitro.PCR{}
			}
		}, []error{client.ErrAttestation, attest.ErrDebug}, false},
		{"old document", func(l *testkit.Lies) {
			l.Document = func(_ string, d *nitro.Document) { d.Timestamp = d.Timestamp.Add(-90 * time.Minute) }
		}, []error{client.ErrAttestation, attest.ErrTime}, false},
		{"altered document", func(l *testkit.Lies) { l.Signed = func(b []byte) []byte { flip(b); return b } }, []error{client.ErrAttestation, attest.ErrSignature}, false},
		{"garbage document", func(l *testkit.Lies) { l.Signed = func([]byte) []byte { return []byte("garbage") } }, []error{client.ErrAttestation, attest.ErrMalformed}, false},
		{"no session key", func(l *testkit.Lies) { l.Document = func(_ string, d *nitro.Document) { d.PublicKey = nil } }, []error{client.ErrAttestation, attest.ErrField}, false},
		{"no user data", func(l *testkit.Lies) { l.Document = func(_ string, d *nitro.Document) { d.UserData = nil } }, []error{client.ErrAttestation, attest.ErrField}, false},
		{"no function checksum", func(l *testkit.Lies) { l.UserData = func(_ string, u *wire.UserDataV1) { u.FuncChecksum = nil } }, []error{client.ErrAttestation, attest.ErrField}, false},
		{"key never inspected", func(l *testkit.Lies) { l.UserData = func(_ string, u *wire.UserDataV1) { u.KeyChecksum = nil } }, []error{client.ErrAttestation, attest.ErrField}, false},
		{"other key policy", func(l *testkit.Lies) {
			l.UserData = func(_ string, u *wire.UserDataV1) { u.KeyChecksum = make([]byte, 32) }
		}, []error{client.ErrTrust}, false},
		{"no signing key", func(l *testkit.Lies) { l.UserData = func(_ string, u *wire.UserDataV1) { u.SignatureKey = nil } }, []error{client.ErrAttestation, attest.ErrField}, false},
		{"other function", func(l *testkit.Lies) {
			l.UserData = func(_ string, u *wire.UserDataV1) { u.FuncChecksum = make([]byte, 32) }
		}, []error{client.ErrChecksum}, false},
		{"no subprotocol", func(l *testkit.Lies) { l.NoSubprotocol = true }, []error{client.ErrProtocol}, false},
		{"garbage frame", func(l *testkit.Lies) { l.Frame = func(string, []byte) []byte { return []byte("{") } }, []error{client.ErrProtocol}, false},
		{"frame without message", func(l *testkit.Lies) { l.Frame = func(string, []byte) []byte { return []byte("{}") } }, []error{client.ErrProtocol}, false},
		{"flood before the document", func(l *testkit.Lies) {
			l.Frame = func(string, []byte) []byte { return bytes.Repeat([]byte("a"), 1<<20) }
		}, []error{client.ErrTooLarge}, false},
		{"document of another type", func(l *testkit.Lies) {
			l.Frame = func(_ string, f []byte) []byte {
				return bytes.Replace(f, []byte(wire.TypeAttestation), []byte("something"), 1)
			}
		}, []error{client.ErrProtocol}, false},
		{"output altered", func(l *testkit.Lies) { l.Result = func(r *wire.ResultV1) { r.Message = []byte("other") } }, []error{client.ErrChecksum}, true},
		{"output and checksum altered", func(l *testkit.Lies) {
			l.Result = func(r *wire.ResultV1) {
				sum := sha256.Sum256([]byte("other"))
				r.Message, r.Checksums.Output = []byte("other"), sum[:]
			}
		}, []error{client.ErrChecksum}, true},
		{"signature stripped", func(l *testkit.Lies) { l.Result = func(r *wire.ResultV1) { r.SignedChecksums = nil } }, []error{client.ErrChecksum}, true},
		{"signature altered", func(l *testkit.Lies) { l.Result = func(r *wire.ResultV1) { flip(r.SignedChecksums) } }, []error{client.ErrChecksum}, true},
		{"checksums stripped", func(l *testkit.Lies) { l.Result = func(r *wire.ResultV1) { r.Checksums = wire.ChecksumsV1{} } }, []error{client.ErrChecksum}, true},
		{"signed for another input", func(l *testkit.Lies) { l.Sign = func(r *wire.ResultV1) { r.Checksums.Input = make([]byte, 32) } }, []error{client.ErrChecksum}, true},
		{"signed for another function", func(l *testkit.Lies) { l.Sign = func(r *wire.ResultV1) { r.Checksums.Function = make([]byte, 32) } }, []error{client.ErrChecksum}, true},
		{"signed for another output", func(l *testkit.Lies) { l.Sign = func(r *wire.ResultV1) { r.Checksums.Output = make([]byte, 32) } }, []error{client.ErrChecksum}, true},
		{"result of another type", func(l *testkit.Lies) { l.Result = func(r *wire.ResultV1) { r.Type = "log" } }, []error{client.ErrProtocol}, true},
	} {
		t.Run(tc.name, func(t *testing.T) {
			s := testkit.New(t)
			called := false
			f := s.Add(testkit.Function{User: "ann", Name: "f", Zip: []byte("zip"), Handler: func(in []byte) ([]byte, error) { called = true; return in, nil }})
			s.Lie(tc.lie)
			sum := sha256.Sum256([]byte("zip"))
			r, err := connect(t, s).Run(t.Context(), client.Function{Name: f.ID, Checksum: sum[:]}, []byte("input"))
			for _, want := range tc.want {
				if !errors.Is(err, want) {
					t.Errorf("error %v, want %v", err, want)
				}
			}
			if r != nil {
				t.Error("a result was given out")
			}
			if called != tc.sent {
				t.Errorf("input sent: %t, want %t", called, tc.sent)
			}
		})
	}
}

func TestZeroPolicyAcceptsNothing(t *testing.T) {
	s := testkit.New(t)
	f := s.Add(testkit.Function{User: "ann", Name: "f", Zip: []byte("zip")})
	good := policyOf(s)
	for name, judge := range map[string]trust.Judge{
		"none":                      nil,
		"zero":                      trust.Policy{},
		"no roots":                  trust.Policy{PCRs: good.PCRs, KeyPolicies: good.KeyPolicies},
		"no measurements":           trust.Policy{Roots: good.Roots, KeyPolicies: good.KeyPolicies},
		"an index without values":   trust.Policy{Roots: good.Roots, KeyPolicies: good.KeyPolicies, PCRs: map[int][]nitro.PCR{0: {}}},
		"nothing of the key policy": trust.Policy{Roots: good.Roots, PCRs: good.PCRs},
	} {
		t.Run(name, func(t *testing.T) {
			c := connect(t, s, func(o *client.Options) { o.Trust = judge })
			if _, err := c.Run(t.Context(), client.Function{Name: f.ID}, nil); !errors.Is(err, client.ErrAttestation) {
				t.Errorf("error %v, want ErrAttestation", err)
			}
		})
	}
}

func TestPins(t *testing.T) {
	s := testkit.New(t)
	f := s.Add(testkit.Function{User: "ann", Name: "f", Zip: []byte("zip")})
	c := connect(t, s)
	sum := sha256.Sum256([]byte("zip"))
	for _, tc := range []struct {
		name string
		f    client.Function
		want error
	}{
		{"right", client.Function{Name: f.ID, Checksum: sum[:], KeyPolicy: s.KeyPolicy[:]}, nil},
		{"wrong checksum", client.Function{Name: f.ID, Checksum: make([]byte, 32)}, client.ErrChecksum},
		{"wrong key policy", client.Function{Name: f.ID, KeyPolicy: make([]byte, 32)}, client.ErrChecksum},
		{"short checksum", client.Function{Name: f.ID, Checksum: sum[:31]}, client.ErrOptions},
		{"empty checksum", client.Function{Name: f.ID, Checksum: []byte{}}, client.ErrOptions},
		{"path instead of a name", client.Function{Name: "../deploy"}, client.ErrFunction},
		{"no name", client.Function{}, client.ErrFunction},
	} {
		t.Run(tc.name, func(t *testing.T) {
			if _, err := c.Run(t.Context(), tc.f, nil); !errors.Is(err, tc.want) {
				t.Errorf("error %v, want %v", err, tc.want)
			}
		})
	}
}

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
	if r.InputCompared {
		t.Error("an encrypted input cannot have been compared")
	}
	for _, key := range []*client.CapeKey{own, bob} {
		again, err := c.StoredKey(t.Context(), key.Document, key.Nonce)
		if err != nil || !again.Public.Equal(key.Public) {
			t.Errorf("stored key: %v", err)
		}
	}
	if _, err := c.StoredKey(t.Context(), own.Document, []byte("another nonce, 16+")); !errors.Is(err, attest.ErrNonce) {
		t.Errorf("stored with another nonce: %v, want ErrNonce", err)
	}
	other := connect(t, s, func(o *client.Options) {
		p := policyOf(s)
		p.PCRs = map[int][]nitro.PCR{0: {attestkit.PCR(9)}}
		o.Trust = p
	})
	if _, err := other.StoredKey(t.Context(), own.Document, own.Nonce); !errors.Is(err, attest.ErrPCR) {
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

func TestRedirects(t *testing.T) {
	worker := testkit.New(t)
	f := worker.Add(testkit.Function{User: "ann", Name: "f", Zip: []byte("zip")})
	elsewhere := strings.Replace(worker.URL, "127.0.0.1", "localhost", 1)
	for _, tc := range []struct {
		name, location string
		allow          []string
		want           error
	}{
		{"same host, other port", worker.URL + "/v1/run/" + f.ID, nil, nil},
		{"as ws", strings.Replace(worker.URL, "http", "ws", 1) + "/v1/run/" + f.ID, nil, nil},
		{"another host", elsewhere + "/v1/run/" + f.ID, nil, client.ErrRedirect},
		{"another host, allowed", elsewhere + "/v1/run/" + f.ID, []string{"localhost"}, nil},
		{"to itself: a second one", "/v1/run/" + f.ID, nil, client.ErrRedirect},
		{"nowhere", "", nil, client.ErrRedirect},
		{"another scheme", "file:///etc/passwd", nil, client.ErrRedirect},
		{"with a password", "http://ann:x@127.0.0.1/", nil, client.ErrRedirect},
	} {
		t.Run(tc.name, func(t *testing.T) {
			front := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				w.Header().Set("Location", tc.location)
				w.WriteHeader(http.StatusTemporaryRedirect)
			}))
			defer front.Close()
			before := len(worker.Requests())
			c := connect(t, worker, func(o *client.Options) { o.BaseURL, o.RedirectHosts = front.URL, tc.allow })
			_, err := c.Run(t.Context(), client.Function{Name: f.ID}, nil)
			if !errors.Is(err, tc.want) {
				t.Errorf("error %v, want %v", err, tc.want)
			}
			if sent := len(worker.Requests()) > before; sent != (tc.want == nil) {
				t.Errorf("the target got a request: %t", sent)
			}
		})
	}
}

func TestRedirectNeverDown(t *testing.T) {
	plain, secure := testkit.New(t), testkit.NewTLS(t)
	secure.Lie(func(l *testkit.Lies) {
		l.Request = func(w http.ResponseWriter, r *http.Request) bool {
			http.Redirect(w, r, plain.URL+r.URL.Path, http.StatusTemporaryRedirect)
			return true
		}
	})
	roots := x509.NewCertPool()
	roots.AddCert(secure.HTTP.Certificate())
	c := connect(t, plain, func(o *client.Options) { o.BaseURL, o.TLSRoots = secure.URL, roots })
	if _, err := c.Key(t.Context()); !errors.Is(err, client.ErrRedirect) {
		t.Errorf("session: %v, want ErrRedirect", err)
	}
	if _, err := c.List(t.Context(), 1, 0); !errors.Is(err, client.ErrRedirect) {
		t.Errorf("list: %v, want ErrRedirect", err)
	}
	if len(plain.Requests()) != 0 {
		t.Error("the token went to a server without TLS")
	}
}

func TestTLS(t *testing.T) {
	s := testkit.NewTLS(t)
	f := s.Add(testkit.Function{User: "ann", Name: "f", Zip: []byte("zip")})
	if _, err := connect(t, s).Run(t.Context(), client.Function{Name: f.ID}, nil); !errors.Is(err, client.ErrUnreachable) {
		t.Errorf("unknown certificate: %v, want ErrUnreachable", err)
	}
	roots := x509.NewCertPool()
	roots.AddCert(s.HTTP.Certificate())
	for name, change := range map[string]func(*client.Options){
		"roots":    func(o *client.Options) { o.TLSRoots = roots },
		"insecure": func(o *client.Options) { o.InsecureTLS = true },
	} {
		if _, err := connect(t, s, change).Run(t.Context(), client.Function{Name: f.ID}, nil); err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestServerErrors(t *testing.T) {
	s := testkit.New(t)
	f := s.Add(testkit.Function{User: "bob", Name: "f", Zip: []byte("zip")})
	long := strings.Repeat("x", 3000)
	for _, tc := range []struct {
		name   string
		change func(*client.Options)
		lie    func(http.ResponseWriter, *http.Request) bool
		code   string
		want   error
	}{
		{name: "somebody else's", code: wire.CodeNotFound},
		{name: "expired", change: func(o *client.Options) {
			o.Token = client.StaticToken(testkit.TokenUntil("ann", time.Unix(1, 0)))
		}, code: wire.CodeUnauthorized},
		{name: "no token", change: func(o *client.Options) { o.Token = nil }, want: client.ErrToken},
		{name: "empty token", change: func(o *client.Options) { o.Token = client.StaticToken("") }, want: client.ErrToken},
		{name: "token with a line break", change: func(o *client.Options) { o.Token = client.StaticToken("a\r\nb: c") }, want: client.ErrToken},
		{name: "huge token", change: func(o *client.Options) { o.Token = client.StaticToken(strings.Repeat("a", 9000)) }, want: client.ErrToken},
		{name: "HTML of a proxy", lie: func(w http.ResponseWriter, _ *http.Request) bool {
			w.WriteHeader(http.StatusBadGateway)
			_, _ = w.Write([]byte("<html>" + long))
			return true
		}, code: wire.CodeUnavailable},
		{name: "long explanation", lie: func(w http.ResponseWriter, _ *http.Request) bool {
			w.WriteHeader(http.StatusTooManyRequests)
			_, _ = w.Write([]byte(`{"error":"` + long + `","code":"quota"}`))
			return true
		}, code: wire.CodeQuota},
		{name: "no WebSocket", lie: func(w http.ResponseWriter, _ *http.Request) bool { return true }, want: client.ErrProtocol},
	} {
		t.Run(tc.name, func(t *testing.T) {
			s.Lie(func(l *testkit.Lies) { l.Request = tc.lie })
			if tc.change == nil {
				tc.change = func(*client.Options) {}
			}
			_, err := connect(t, s, tc.change).Run(t.Context(), client.Function{Name: f.ID}, nil)
			var remote *client.RemoteError
			if tc.code != "" && (!errors.As(err, &remote) || remote.Code != tc.code) {
				t.Errorf("error %v, want code %s", err, tc.code)
			}
			if tc.name == "long explanation" && len(remote.Text) != len(long) {
				t.Errorf("the explanation was cut to %d bytes", len(remote.Text))
			}
			if tc.want != nil && !errors.Is(err, tc.want) {
				t.Errorf("error %v, want %v", err, tc.want)
			}
		})
	}
}

func TestContextEndsEverything(t *testing.T) {
	s := testkit.New(t)
	f := s.Add(testkit.Function{User: "ann", Name: "f", Zip: []byte("zip")})
	s.Lie(func(l *testkit.Lies) { l.Hang = true })
	c := connect(t, s)
	session, err := c.Connect(t.Context(), client.Function{Name: f.ID})
	if err != nil {
		t.Fatal(err)
	}
	defer session.Close()
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	begin := time.Now()
	if _, err := session.Invoke(ctx, []byte("x")); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("error %v, want DeadlineExceeded", err)
	}
	if time.Since(begin) > time.Second {
		t.Error("it took more than a second to stop")
	}
	if _, err := session.Invoke(t.Context(), nil); !errors.Is(err, client.ErrClosed) {
		t.Errorf("afterwards: %v, want ErrClosed", err)
	}
	done, end := context.WithCancel(t.Context())
	end()
	if _, err := c.Connect(done, client.Function{Name: f.ID}); !errors.Is(err, context.Canceled) {
		t.Errorf("with an ended context: %v, want Canceled", err)
	}
}

func TestConnectionLost(t *testing.T) {
	s := testkit.New(t)
	f := s.Add(testkit.Function{User: "ann", Name: "f", Zip: []byte("zip")})
	c := connect(t, s)
	session, err := c.Connect(t.Context(), client.Function{Name: f.ID})
	if err != nil {
		t.Fatal(err)
	}
	defer session.Close()
	s.HTTP.CloseClientConnections()
	_, _ = session.Invoke(t.Context(), nil) // the fake's hijacked connection may survive
	s.HTTP.Close()
	if _, err := c.Connect(t.Context(), client.Function{Name: f.ID}); !errors.Is(err, client.ErrUnreachable) {
		t.Errorf("error %v, want ErrUnreachable", err)
	}
}

func TestResultLimit(t *testing.T) {
	s := testkit.New(t)
	f := s.Add(testkit.Function{User: "ann", Name: "f", Zip: []byte("zip")})
	c := connect(t, s, func(o *client.Options) { o.MaxOutput = 1000 })
	if _, err := c.Run(t.Context(), client.Function{Name: f.ID}, make([]byte, 1000)); err != nil {
		t.Error(err)
	}
	for _, n := range []int{1001, 1 << 20} {
		if _, err := c.Run(t.Context(), client.Function{Name: f.ID}, make([]byte, n)); !errors.Is(err, client.ErrTooLarge) {
			t.Errorf("%d bytes: %v, want ErrTooLarge", n, err)
		}
	}
}

func TestNew(t *testing.T) {
	for _, address := range []string{"", "cape.example.com", "ftp://x", "https://", "https://u:p@x", "https://x?y", "https://x#y", "https://x:port"} {
		if _, err := client.New(client.Options{BaseURL: address}); !errors.Is(err, client.ErrOptions) {
			t.Errorf("%q: %v, want ErrOptions", address, err)
		}
	}
	c, err := client.New(client.Options{BaseURL: "HTTPS://Cape.Example.com/api/"})
	if err != nil || c.Origin() != "https://cape.example.com:443" {
		t.Errorf("origin %v, %v", c, err)
	}
}

func TestReleases(t *testing.T) {
	s := testkit.New(t)
	r, err := connect(t, s, func(o *client.Options) { o.Token = nil }).Releases(t.Context())
	if err != nil || len(r) != 1 || r[0].Measurements["PCR0"] != s.PCRs[0].String() {
		t.Errorf("%v, %v", r, err)
	}
}

func TestPEM(t *testing.T) {
	s := testkit.New(t)
	key, err := connect(t, s).Key(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if text := string(key.PEM()); !strings.Contains(text, base64.StdEncoding.EncodeToString(key.DER)[:40]) {
		t.Error(text)
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
