package client_test

import (
	"errors"
	"testing"

	"github.com/cape-functions/cape/client"
	"github.com/cape-functions/cape/client/testkit"
	"github.com/cape-functions/cape/core/wire"
)

// TestSealedOtherFunction: a function that its owner signed, served in place of the one
// that was asked for.
func TestSealedOtherFunction(t *testing.T) {
	s := testkit.New(t)
	called := false
	handler := func(in []byte) ([]byte, error) { called = true; return in, nil }
	f := s.Add(testkit.Function{User: "ann", Name: "f", Zip: []byte("zip"), Handler: handler})
	g := s.Add(testkit.Function{User: "ann", Name: "g", Zip: []byte("zip"), Handler: handler})
	s.Lie(func(l *testkit.Lies) {
		l.Sealed.Accepted = func(a *wire.Accepted) { a.Manifest, a.Sig, a.Key = g.Manifest, g.Sig, g.Key }
	})
	for _, name := range []string{f.ID, "ann/f"} {
		if _, err := connectSealed(t, s).Stream(t.Context(), client.Function{Name: name}, failing{errors.New("nothing may be read")}, failing{}); err == nil {
			t.Errorf("%s: accepted", name)
		}
		if _, err := connectSealed(t, s).Connect(t.Context(), client.Function{Name: name}); !errors.Is(err, client.ErrChecksum) {
			t.Errorf("%s: %v, want ErrChecksum", name, err)
		}
	}
	if session, err := connectSealed(t, s).Connect(t.Context(), client.Function{Name: g.ID}); err != nil {
		t.Errorf("what is served is not found under its own id: %v", err)
	} else {
		session.Close()
	}
	if called {
		t.Error("an input was sent")
	}
}

// TestSealedDeployLies: what was deployed is what was signed, or an error says so.
func TestSealedDeployLies(t *testing.T) {
	for name, tc := range map[string]struct {
		lie  func(*testkit.Lies)
		want error
	}{
		"another id":        {func(l *testkit.Lies) { l.Sealed.Deployed = func(d *wire.Deployed) { d.ID = "AAAAAAAAAAAAAAAAAAAAAA" } }, client.ErrChecksum},
		"another checksum":  {func(l *testkit.Lies) { l.Sealed.Deployed = func(d *wire.Deployed) { d.Checksum = make([]byte, 32) } }, client.ErrChecksum},
		"a function served": {func(l *testkit.Lies) { l.Sealed.Accepted = serving }, client.ErrProtocol},
		"dropped":           {func(l *testkit.Lies) { l.DropUpload = true }, client.ErrClosed},
	} {
		t.Run(name, func(t *testing.T) {
			s := testkit.New(t)
			s.Lie(tc.lie)
			p, err := client.Pack(t.Context(), folder(t, "fn", "# upper"), "")
			if err != nil {
				t.Fatal(err)
			}
			defer p.Close()
			if d, err := connectSealed(t, s).Deploy(t.Context(), p, client.DeployOptions{}); !errors.Is(err, tc.want) || d != nil {
				t.Errorf("%v, want %v", err, tc.want)
			}
			if name != "a function served" {
				return
			}
			if _, err := connectSealed(t, s).Test(t.Context(), p, nil); !errors.Is(err, tc.want) {
				t.Errorf("test: %v, want %v", err, tc.want)
			}
			if _, err := connectSealed(t, s).Key(t.Context()); !errors.Is(err, tc.want) {
				t.Errorf("key: %v, want %v", err, tc.want)
			}
		})
	}
}

func serving(a *wire.Accepted) { a.Fn, a.Manifest = make([]byte, 32), []byte("manifest") }

// TestSealedExpectation: what is demanded of an enclave, and refused by it, is explained by
// what it serves; nothing else is sent for that.
func TestSealedExpectation(t *testing.T) {
	s := testkit.New(t)
	called := false
	f := s.Add(testkit.Function{User: "ann", Name: "f", Zip: []byte("zip"), Handler: func(in []byte) ([]byte, error) { called = true; return in, nil }})
	c := connectSealed(t, s)
	if _, err := c.Run(t.Context(), client.Function{Name: f.ID, Checksum: make([]byte, 32)}, []byte("x")); !errors.Is(err, client.ErrChecksum) {
		t.Errorf("other code: %v, want ErrChecksum", err)
	}
	if _, err := c.Run(t.Context(), client.Function{Name: f.ID, Account: make([]byte, 32)}, []byte("x")); !errors.Is(err, client.ErrChecksum) {
		t.Errorf("another account: %v, want ErrChecksum", err)
	}
	if called {
		t.Error("the input reached a function that the caller did not expect")
	}
	// An enclave that refuses for another reason is believed.
	sum := []byte("01234567890123456789012345678901")
	var remote *client.RemoteError
	if _, err := c.Run(t.Context(), client.Function{Name: "AAAAAAAAAAAAAAAAAAAAAA", Checksum: sum}, nil); !errors.As(err, &remote) || remote.Code != wire.CodeNotFound {
		t.Errorf("no such function: %v", err)
	}
}
