package client_test

import (
	"bytes"
	"context"
	"crypto/sha256"
	"crypto/x509"
	"encoding/base64"
	"errors"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/cape-functions/cape/client"
	"github.com/cape-functions/cape/client/testkit"
	"github.com/cape-functions/cape/client/trust"
	"github.com/cape-functions/cape/core/attest/nitro"
	"github.com/cape-functions/cape/core/wire"
)

func policyOf(s *testkit.Server) trust.Policy {
	return trust.Policy{
		Roots:       [][]byte{s.Authority.Root},
		PCRs:        map[int][]nitro.PCR{0: {s.PCRs[0]}, 1: {s.PCRs[1]}, 2: {s.PCRs[2]}, 16: {s.PCRs[16]}},
		KeyPolicies: [][32]byte{s.KeyPolicy},
	}
}

// connect returns a client of v1 for ann.
func connect(t *testing.T, s *testkit.Server, change ...func(*client.Options)) *client.Client {
	t.Helper()
	o := client.Options{BaseURL: s.URL, Trust: policyOf(s), Protocol: client.ProtocolV1, Token: client.StaticToken(testkit.Token("ann"))}
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
			if r.Evidence == nil || !r.Evidence.DevelopmentRoot {
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
