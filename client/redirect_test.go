package client_test

import (
	"crypto/x509"
	"errors"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/cape-functions/cape/client"
	"github.com/cape-functions/cape/client/testkit"
)

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
