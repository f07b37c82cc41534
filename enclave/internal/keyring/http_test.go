package keyring

import (
	"errors"
	"net/http"
	"testing"
)

// transport answers every request with 204 and counts them.
type transport int

func (c *transport) RoundTrip(req *http.Request) (*http.Response, error) {
	*c++
	return &http.Response{StatusCode: http.StatusNoContent, Body: http.NoBody, Request: req}, nil
}

// Whatever the SDK comes to make of an endpoint, requests go to that endpoint alone.
func TestGuard(t *testing.T) {
	var sent transport
	g, err := newGuard(&http.Client{Transport: &sent}, "https://kms.eu-west-1.amazonaws.com")
	if err != nil {
		t.Fatal(err)
	}
	for _, tc := range []struct {
		url string
		ok  bool
	}{
		{"https://kms.eu-west-1.amazonaws.com/", true},
		{"http://kms.eu-west-1.amazonaws.com/", false},
		{"https://kms.eu-west-1.amazonaws.com.evil.example/", false},
		{"https://kms.eu-west-2.amazonaws.com/", false},
		{"https://kms.eu-west-1.amazonaws.com:8443/", false},
	} {
		before := sent
		req, err := http.NewRequestWithContext(t.Context(), http.MethodPost, tc.url, nil)
		if err != nil {
			t.Fatal(err)
		}
		resp, err := g.Do(req)
		if err == nil {
			resp.Body.Close()
		}
		if tc.ok != (err == nil) || tc.ok != (sent != before) || !tc.ok && !errors.Is(err, ErrConfig) {
			t.Errorf("%s: %v", tc.url, err)
		}
	}
}
