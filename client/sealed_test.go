package client_test

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/cape-functions/cape/client"
	"github.com/cape-functions/cape/client/testkit"
	"github.com/cape-functions/cape/core/wire"
)

// connectSealed returns a client of v2 for ann, who trusts her own account.
func connectSealed(t *testing.T, s *testkit.Server, change ...func(*client.Options)) *client.Client {
	t.Helper()
	p := policyOf(s)
	p.Accounts = map[string][32]byte{"ann": s.Account("ann").ID()}
	o := func(o *client.Options) {
		o.Protocol, o.Trust, o.Account = client.ProtocolV2, p, s.Account("ann")
	}
	return connect(t, s, append([]func(*client.Options){o}, change...)...)
}

func random(t *testing.T, n int) []byte {
	t.Helper()
	data := make([]byte, n)
	if _, err := io.ReadFull(rand.NewChaCha8([32]byte{1}), data); err != nil {
		t.Fatal(err)
	}
	return data
}

func TestSealedRun(t *testing.T) {
	s := testkit.New(t)
	f := s.Add(testkit.Function{User: "ann", Name: "f", Zip: []byte("zip")})
	c := connectSealed(t, s)
	for _, name := range []string{f.ID, "ann/f"} {
		for _, size := range []int{0, 1, 1000, 40 << 10, wire.DataPayload, wire.DataPayload + 1, 9 << 20} {
			input := random(t, size)
			r, err := c.Run(t.Context(), client.Function{Name: name}, input)
			if err != nil || !bytes.Equal(r.Output, input) {
				t.Fatalf("%s, %d bytes: %v", name, size, err)
			}
			if r.Checksums.Input != sha256.Sum256(input) || r.Checksums.Output != sha256.Sum256(input) || r.Checksums.Function != sha256.Sum256([]byte("zip")) || r.Receipt == nil {
				t.Errorf("%s, %d bytes: %+v", name, size, r.Checksums)
			}
		}
	}
	for _, r := range s.Requests() {
		if h := fmt.Sprint(r.Header); strings.Contains(h, testkit.Token("ann")[:20]) || r.Header.Get("Authorization") != "" {
			t.Fatalf("the host sees the token: %s", h)
		}
	}
}

func TestSealedSession(t *testing.T) {
	s := testkit.New(t)
	n := 0
	f := s.Add(testkit.Function{User: "ann", Name: "f", Zip: []byte("zip"), Handler: func(in []byte) ([]byte, error) {
		if n++; string(in) == "bad" {
			return nil, errors.New("ValueError: no")
		}
		return fmt.Appendf(nil, "%d %s", n, in), nil
	}})
	session, err := connectSealed(t, s).Connect(t.Context(), client.Function{Name: f.ID})
	if err != nil {
		t.Fatal(err)
	}
	defer session.Close()
	if session.Checksum() != sha256.Sum256([]byte("zip")) || session.Evidence() == nil {
		t.Error("the session does not say what it is")
	}
	for i, in := range []string{"a", "bad", "c"} {
		r, err := session.Invoke(t.Context(), []byte(in))
		var remote *client.RemoteError
		switch {
		case in == "bad":
			if !errors.As(err, &remote) || remote.Code != wire.CodeFunctionError {
				t.Errorf("handler that raises: %v", err)
			}
		case err != nil || string(r.Output) != fmt.Sprint(i+1, " ", in):
			t.Errorf("%s: %v", in, err)
		}
	}
	session.Close()
	if _, err := session.Invoke(t.Context(), nil); !errors.Is(err, client.ErrClosed) {
		t.Errorf("after Close: %v, want ErrClosed", err)
	}
}

// TestSealedPipelined: calls of one session wait together, and each gets its own result.
func TestSealedPipelined(t *testing.T) {
	s := testkit.New(t)
	f := s.Add(testkit.Function{User: "ann", Name: "f", Zip: []byte("zip")})
	session, err := connectSealed(t, s).Connect(t.Context(), client.Function{Name: f.ID})
	if err != nil {
		t.Fatal(err)
	}
	defer session.Close()
	var wait sync.WaitGroup
	for i := range 60 {
		wait.Go(func() {
			input := bytes.Repeat(fmt.Appendf(nil, "%d,", i), 1+i*i*50)
			r, err := session.Invoke(t.Context(), input)
			if err != nil || !bytes.Equal(r.Output, input) {
				t.Errorf("call %d: %v", i, err)
			}
		})
	}
	wait.Wait()
}

// slowWriter takes its time with the first bytes.
type slowWriter struct {
	io.Writer
	wait time.Duration
	once sync.Once
}

func (w *slowWriter) Write(p []byte) (int, error) {
	w.once.Do(func() { time.Sleep(w.wait) })
	return w.Writer.Write(p)
}

func TestSealedStream(t *testing.T) {
	s := testkit.New(t)
	f := s.Add(testkit.Function{User: "ann", Name: "f", Zip: []byte("zip")})
	c := connectSealed(t, s)
	for _, size := range []int{0, 5, wire.DataPayload - 1, wire.DataPayload, 30 << 20} {
		input := random(t, size)
		var output bytes.Buffer
		r, err := c.Stream(t.Context(), client.Function{Name: f.ID}, bytes.NewReader(input), &slowWriter{Writer: &output, wait: 50 * time.Millisecond})
		if err != nil || !bytes.Equal(output.Bytes(), input) || r.Output != nil {
			t.Errorf("%d bytes: %d came, %v", size, output.Len(), err)
		}
	}
	broken := errors.New("disk")
	if _, err := c.Stream(t.Context(), client.Function{Name: f.ID}, io.MultiReader(bytes.NewReader(random(t, 1<<20)), failing{broken}), io.Discard); !errors.Is(err, broken) {
		t.Errorf("input that breaks: %v", err)
	}
	if _, err := c.Stream(t.Context(), client.Function{Name: f.ID}, bytes.NewReader(random(t, 20<<20)), failing{broken}); !errors.Is(err, broken) {
		t.Errorf("output that breaks: %v", err)
	}
}

type failing struct{ err error }

func (f failing) Read([]byte) (int, error)  { return 0, f.err }
func (f failing) Write([]byte) (int, error) { return 0, f.err }

func TestSealedContext(t *testing.T) {
	s := testkit.New(t)
	f := s.Add(testkit.Function{User: "ann", Name: "f", Zip: []byte("zip")})
	s.Lie(func(l *testkit.Lies) { l.Hang = true })
	c := connectSealed(t, s)
	waiting, stop := io.Pipe()
	defer stop.Close()
	for name, call := range map[string]func(context.Context, *client.Session) error{
		"invoke": func(ctx context.Context, s *client.Session) error { _, err := s.Invoke(ctx, []byte("x")); return err },
		"large": func(ctx context.Context, s *client.Session) error {
			_, err := s.Invoke(ctx, make([]byte, 8<<20))
			return err
		},
		"reader that says nothing": func(ctx context.Context, s *client.Session) error {
			_, err := s.Stream(ctx, waiting, io.Discard)
			return err
		},
		"run": func(ctx context.Context, _ *client.Session) error {
			_, err := c.Stream(ctx, client.Function{Name: f.ID}, waiting, io.Discard)
			return err
		},
	} {
		t.Run(name, func(t *testing.T) {
			session, err := c.Connect(t.Context(), client.Function{Name: f.ID})
			if err != nil {
				t.Fatal(err)
			}
			defer session.Close()
			ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
			defer cancel()
			begin := time.Now()
			if err := call(ctx, session); !errors.Is(err, context.DeadlineExceeded) {
				t.Errorf("error %v, want DeadlineExceeded", err)
			}
			if took := time.Since(begin); took > 2*time.Second {
				t.Errorf("it took %v to stop", took)
			}
			if name == "run" {
				return
			}
			// A cancelled call ends the function's process, and the session with it.
			if _, err := session.Invoke(t.Context(), nil); !errors.Is(err, client.ErrClosed) {
				t.Errorf("afterwards: %v, want ErrClosed", err)
			}
		})
	}
}

// TestSealedCredit: nothing is sent beyond what was granted.
func TestSealedCredit(t *testing.T) {
	s := testkit.New(t)
	f := s.Add(testkit.Function{User: "ann", Name: "f", Zip: []byte("zip")})
	s.Lie(func(l *testkit.Lies) { l.Sealed.NoCredit = true })
	ctx, cancel := context.WithTimeout(t.Context(), 300*time.Millisecond)
	defer cancel()
	c := connectSealed(t, s)
	if _, err := c.Run(ctx, client.Function{Name: f.ID}, make([]byte, wire.InitialCredit+1)); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("a byte more than the credit: %v", err)
	}
	if _, err := c.Run(t.Context(), client.Function{Name: f.ID}, make([]byte, wire.InitialCredit)); err != nil {
		t.Error(err)
	}
}

func TestSealedResultLimit(t *testing.T) {
	s := testkit.New(t)
	f := s.Add(testkit.Function{User: "ann", Name: "f", Zip: []byte("zip")})
	c := connectSealed(t, s, func(o *client.Options) { o.MaxOutput = 1000 })
	if _, err := c.Run(t.Context(), client.Function{Name: f.ID}, make([]byte, 1000)); err != nil {
		t.Error(err)
	}
	for _, n := range []int{1001, 5 << 20} {
		if _, err := c.Run(t.Context(), client.Function{Name: f.ID}, make([]byte, n)); !errors.Is(err, client.ErrTooLarge) {
			t.Errorf("%d bytes: %v, want ErrTooLarge", n, err)
		}
	}
}

func TestSealedDeploy(t *testing.T) {
	s := testkit.New(t)
	c := connectSealed(t, s)
	for _, tc := range []struct {
		name string
		o    client.DeployOptions
		want wire.Manifest
	}{
		{"plain", client.DeployOptions{Username: "ann"}, wire.Manifest{Name: "fn", Access: wire.AccessToken, Decrypt: wire.DecryptOwner}},
		{"public", client.DeployOptions{Public: true, Name: "other"}, wire.Manifest{Name: "other", Access: wire.AccessPublic, Decrypt: wire.DecryptOwner}},
		{"grant", client.DeployOptions{Access: wire.AccessGrant, Decrypt: wire.DecryptAny}, wire.Manifest{Name: "fn", Access: wire.AccessGrant, Decrypt: wire.DecryptAny}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			p, err := client.Pack(t.Context(), folder(t, "fn", "# upper"), "")
			if err != nil {
				t.Fatal(err)
			}
			defer p.Close()
			var told int64
			p.Progress = func(done, _ int64) { told = done }
			d, err := c.Deploy(t.Context(), p, tc.o)
			if err != nil {
				t.Fatal(err)
			}
			m, id := d.Manifest, s.Account("ann").ID()
			if m.Name != tc.want.Name || m.Access != tc.want.Access || m.Decrypt != tc.want.Decrypt || m.Owner != (wire.Subject{Iss: "fake", Sub: "ann|1"}) ||
				!bytes.Equal(m.Acct, id[:]) || !bytes.Equal(m.Checksum, p.Checksum[:]) || m.Seq < uint64(time.Now().Add(-time.Minute).UnixMilli()) {
				t.Errorf("signed %+v", m)
			}
			if told != p.Size {
				t.Errorf("progress ended at %d of %d", told, p.Size)
			}
			r, err := c.Run(t.Context(), client.Function{Name: d.ID}, []byte("x"))
			if err != nil || string(r.Output) != "X" {
				t.Error(err)
			}
		})
	}
}

func TestSealedDeployNeedsAnAccount(t *testing.T) {
	s := testkit.New(t)
	p, err := client.Pack(t.Context(), folder(t, "fn", "# upper"), "")
	if err != nil {
		t.Fatal(err)
	}
	defer p.Close()
	c := connectSealed(t, s, func(o *client.Options) { o.Account = nil })
	if _, err := c.Deploy(t.Context(), p, client.DeployOptions{}); !errors.Is(err, client.ErrAccount) {
		t.Errorf("deploy: %v", err)
	}
	if _, err := c.Test(t.Context(), p, nil); !errors.Is(err, client.ErrAccount) {
		t.Errorf("test: %v", err)
	}
	if _, err := c.Key(t.Context()); !errors.Is(err, client.ErrAccount) {
		t.Errorf("key: %v", err)
	}
	if s.Opens() != 0 {
		t.Error("something was sent all the same")
	}
	opaque := connectSealed(t, s, func(o *client.Options) { o.Token = client.StaticToken("opaque") })
	if _, err := opaque.Deploy(t.Context(), p, client.DeployOptions{}); !errors.Is(err, client.ErrToken) {
		t.Errorf("a token that names nobody: %v", err)
	}
}

func TestSealedTest(t *testing.T) {
	s := testkit.New(t)
	var logs bytes.Buffer
	c := connectSealed(t, s, func(o *client.Options) { o.Log = func(_ string, data []byte) { logs.Write(data) } })
	p, err := client.Pack(t.Context(), folder(t, "fn", "# upper\n# prints noise\n"), "")
	if err != nil {
		t.Fatal(err)
	}
	defer p.Close()
	r, err := c.Test(t.Context(), p, []byte("x"))
	if err != nil || string(r.Output) != "X" || r.Checksums.Function != p.Checksum {
		t.Fatal(err)
	}
	if logs.String() != "noise\n" {
		t.Errorf("logs %q", logs.String())
	}
	bad, err := client.Pack(t.Context(), folder(t, "bad", "# syntax error"), "")
	if err != nil {
		t.Fatal(err)
	}
	defer bad.Close()
	var remote *client.RemoteError
	if _, err := c.Test(t.Context(), bad, nil); !errors.As(err, &remote) || remote.Code != wire.CodeInvalidFunction {
		t.Errorf("a function that does not compile: %v", err)
	}
	if _, err := c.Deploy(t.Context(), bad, client.DeployOptions{}); !errors.As(err, &remote) || remote.Code != wire.CodeInvalidFunction {
		t.Errorf("deployed: %v", err)
	}
}

// TestSealedNames: a name proves nothing; who calls by name says whose account it must be.
func TestSealedNames(t *testing.T) {
	s := testkit.New(t)
	ann := s.Add(testkit.Function{User: "ann", Name: "f", Zip: []byte("zip"), Public: true})
	s.Add(testkit.Function{User: "bob", Name: "f", Zip: []byte("bob's"), Public: true})
	unsigned := s.Add(testkit.Function{User: "ann", Name: "old", Zip: []byte("old"), Unsigned: true})
	annID, bobID := s.Account("ann").ID(), s.Account("bob").ID()
	sum := sha256.Sum256([]byte("bob's"))
	unchecked := func(o *client.Options) {
		p := policyOf(s)
		p.AccountsNotChecked = true
		o.Trust = p
	}
	for _, tc := range []struct {
		name   string
		f      client.Function
		change func(*client.Options)
		want   error
	}{
		{name: "known", f: client.Function{Name: "ann/f"}},
		{name: "id", f: client.Function{Name: ann.ID}},
		{name: "nobody vouches for bob", f: client.Function{Name: "bob/f"}, want: client.ErrTrust},
		{name: "account pinned", f: client.Function{Name: "bob/f", Account: bobID[:]}},
		{name: "other account pinned", f: client.Function{Name: "bob/f", Account: annID[:]}, want: client.ErrChecksum},
		{name: "code pinned", f: client.Function{Name: "bob/f", Checksum: sum[:]}},
		{name: "other code pinned", f: client.Function{Name: "bob/f", Checksum: make([]byte, 32)}, want: client.ErrChecksum},
		{name: "unsigned, of a user with an account", f: client.Function{Name: "ann/old"}, want: client.ErrTrust},
		{name: "unsigned, by id", f: client.Function{Name: unsigned.ID}},
		{name: "any account", f: client.Function{Name: "bob/f"}, change: unchecked},
		{name: "key policy pinned", f: client.Function{Name: ann.ID, KeyPolicy: s.KeyPolicy[:]}},
		{name: "other key policy pinned", f: client.Function{Name: ann.ID, KeyPolicy: make([]byte, 32)}, want: client.ErrPinned},
	} {
		t.Run(tc.name, func(t *testing.T) {
			if tc.change == nil {
				tc.change = func(*client.Options) {}
			}
			if _, err := connectSealed(t, s, tc.change).Run(t.Context(), tc.f, nil); !errors.Is(err, tc.want) {
				t.Errorf("error %v, want %v", err, tc.want)
			}
		})
	}
}

func TestSealedErrors(t *testing.T) {
	s := testkit.New(t)
	f := s.Add(testkit.Function{User: "bob", Name: "f", Zip: []byte("zip")})
	for name, tc := range map[string]struct {
		change func(*client.Options)
		code   string
	}{
		"somebody else's": {func(*client.Options) {}, wire.CodeNotFound},
		"expired": {func(o *client.Options) {
			o.Token = client.StaticToken(testkit.TokenUntil("ann", time.Unix(1, 0)))
		}, wire.CodeUnauthorized},
	} {
		t.Run(name, func(t *testing.T) {
			_, err := connectSealed(t, s, tc.change).Run(t.Context(), client.Function{Name: f.ID}, nil)
			var remote *client.RemoteError
			if !errors.As(err, &remote) || remote.Code != tc.code {
				t.Errorf("error %v, want %s", err, tc.code)
			}
			if name == "expired" && !remote.Expired() {
				t.Error("an expired token is not seen")
			}
		})
	}
	for _, token := range []client.TokenSource{nil, client.StaticToken(""), client.StaticToken("a\r\nb")} {
		c := connectSealed(t, s, func(o *client.Options) { o.Token = token })
		if _, err := c.Run(t.Context(), client.Function{Name: f.ID}, nil); !errors.Is(err, client.ErrToken) {
			t.Errorf("unusable token: %v", err)
		}
	}
}
