package client_test

import (
	"bytes"
	"crypto/sha256"
	"crypto/x509"
	"errors"
	"net/http"
	"strings"
	"testing"

	"github.com/cape-functions/cape/client"
	"github.com/cape-functions/cape/client/testkit"
)

// TestSealedTLS: where an enclave ends TLS, the connection must end there: after one
// redirect, and under a certificate that TLS itself accepts.
func TestSealedTLS(t *testing.T) {
	enclave, front := testkit.NewTLS(t), testkit.NewTLS(t)
	f := enclave.Add(testkit.Function{User: "ann", Name: "f", Zip: []byte("zip")})
	front.Lie(func(l *testkit.Lies) {
		l.Request = func(w http.ResponseWriter, r *http.Request) bool {
			http.Redirect(w, r, enclave.URL+r.URL.Path, http.StatusTemporaryRedirect)
			return true
		}
	})
	spki := sha256.Sum256(enclave.HTTP.Certificate().RawSubjectPublicKeyInfo)
	trusted := x509.NewCertPool()
	trusted.AddCert(enclave.HTTP.Certificate())
	trusted.AddCert(front.HTTP.Certificate())
	for _, tc := range []struct {
		name, url string
		roots     *x509.CertPool
		tls       []byte
		want      []error
	}{
		{"redirected to the enclave", front.URL, trusted, spki[:], nil},
		{"straight to it", enclave.URL, trusted, spki[:], nil},
		{"TLS ends at the host", enclave.URL, trusted, nil, nil},
		{"another key attested", front.URL, trusted, bytes.Repeat([]byte{1}, 32), []error{client.ErrAttestation, client.ErrTLS}},
		{"certificate of nobody", front.URL, x509.NewCertPool(), spki[:], []error{client.ErrUnreachable}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			enclave.Lie(func(l *testkit.Lies) { l.Sealed.TLS = tc.tls })
			opens := enclave.Opens()
			c := connectSealed(t, enclave, func(o *client.Options) { o.BaseURL, o.TLSRoots = tc.url, tc.roots })
			r, err := c.Run(t.Context(), client.Function{Name: f.ID}, []byte("x"))
			for _, want := range tc.want {
				if !errors.Is(err, want) {
					t.Errorf("error %v, want %v", err, want)
				}
			}
			if tc.want == nil && err != nil {
				t.Fatal(err)
			}
			if opened := enclave.Opens() > opens; opened != (tc.want == nil) {
				t.Errorf("a session was opened: %t", opened)
			}
			if r != nil && tc.tls != nil {
				held := false
				for _, check := range r.Evidence.Checks {
					held = held || check.Name == "tls" && strings.Contains(check.Detail, "enclave")
				}
				if !held {
					t.Error("it is not told that TLS ends in the enclave")
				}
			}
		})
	}
	for _, r := range append(front.Requests(), enclave.Requests()...) {
		if r.Header.Get("Sec-Websocket-Protocol") != "cape.v2" || r.Header.Get("Authorization") != "" || r.Header.Get("Origin") != "" {
			t.Errorf("more was said than is needed: %v", r.Header)
		}
	}
}

// TestSealedTLSUnchecked: whoever leaves certificates unchecked still finds the enclave.
func TestSealedTLSUnchecked(t *testing.T) {
	s, other := testkit.NewTLS(t), testkit.NewTLS(t)
	f := s.Add(testkit.Function{User: "ann", Name: "f", Zip: []byte("zip")})
	c := connectSealed(t, s, func(o *client.Options) { o.InsecureTLS = true })
	for name, key := range map[string][]byte{"": s.HTTP.Certificate().RawSubjectPublicKeyInfo, "another": other.HTTP.Certificate().RawSubjectPublicKeyInfo} {
		if name != "" {
			key = append(bytes.Clone(key), 0) // testkit's servers share a certificate
		}
		sum := sha256.Sum256(key)
		s.Lie(func(l *testkit.Lies) { l.Sealed.TLS = sum[:] })
		if _, err := c.Run(t.Context(), client.Function{Name: f.ID}, nil); errors.Is(err, client.ErrTLS) != (name != "") {
			t.Errorf("%q: %v", name, err)
		}
	}
}

func TestSealedKeys(t *testing.T) {
	s := testkit.New(t)
	f := s.Add(testkit.Function{User: "ann", Name: "f", Zip: []byte("zip")})
	c := connectSealed(t, s)
	own, err := c.Key(t.Context())
	id := [32]byte(s.Account("ann").ID())
	if err != nil || own.Account == nil || *own.Account != id || own.Public.N.Cmp(s.CapeKey(s.Account("ann").ID().String()).N) != 0 {
		t.Fatalf("own key: %v", err)
	}
	if s.Opens() != 1 {
		t.Errorf("%d sessions to make one key", s.Opens())
	}
	if again, err := c.Key(t.Context()); err != nil || !again.Public.Equal(own.Public) || s.Opens() != 1 {
		t.Errorf("the same key again: %v, %d sessions", err, s.Opens())
	}
	sealed, err := own.Encrypt([]byte("secret"))
	if err != nil || !strings.HasPrefix(string(sealed), "cape:v2,") {
		t.Fatal(err)
	}
	r, err := c.Run(t.Context(), client.Function{Name: f.ID}, sealed)
	if err != nil || string(r.Output) != "secret" {
		t.Errorf("encrypted input: %v", err)
	}
	nobody := connectSealed(t, s, func(o *client.Options) { o.Token, o.Account = nil, nil })
	if key, err := nobody.UserKey(t.Context(), "ann"); err != nil || *key.Account != id || key.User != "ann" {
		t.Errorf("a user's key, without a login: %v", err)
	}
	s.Account("bob")
	s.CapeKey(s.Account("bob").ID().String())
	if _, err := nobody.UserKey(t.Context(), "bob"); !errors.Is(err, client.ErrTrust) {
		t.Errorf("the key of an account that nobody vouches for: %v", err)
	}
	var remote *client.RemoteError
	if _, err := nobody.UserKey(t.Context(), "carol"); !errors.As(err, &remote) {
		t.Errorf("nobody's key: %v", err)
	}
	old, err := connect(t, s).Key(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if _, err := old.Seal(&bytes.Buffer{}, ownerOnly, true); !errors.Is(err, client.ErrAccount) {
		t.Errorf("the streaming form under a key of v1: %v", err)
	}
}
