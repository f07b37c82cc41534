package link

import (
	"errors"
	"net/http"
	"net/url"
	"testing"
)

func TestFollow(t *testing.T) {
	for _, tc := range []struct {
		from, location string
		allowed        []string
		want           string // empty: refused
	}{
		{"https://cape.example.com/v1/key", "/other", nil, "https://cape.example.com/other"},
		{"https://cape.example.com/v1/key", "https://cape.example.com:8443/x", nil, "https://cape.example.com:8443/x"},
		{"https://cape.example.com/", "wss://W1.cape.example.com/x", nil, "https://W1.cape.example.com/x"},
		{"http://127.0.0.1:1/", "ws://127.0.0.1:2/x", nil, "http://127.0.0.1:2/x"},
		{"http://cape.example.com/", "https://cape.example.com/x", nil, "https://cape.example.com/x"},
		{"https://cape.example.com/", "https://pool.example.org/x", []string{"POOL.example.org"}, "https://pool.example.org/x"},
		{"https://cape.example.com/", "//w1.cape.example.com/x", nil, "https://w1.cape.example.com/x"},

		{"https://cape.example.com/", "http://cape.example.com/x", nil, ""},
		{"https://cape.example.com/", "ws://cape.example.com/x", nil, ""},
		{"https://cape.example.com/", "http://pool.example.org/x", []string{"pool.example.org"}, ""},
		{"https://cape.example.com/", "https://example.com/x", nil, ""},
		{"https://cape.example.com/", "https://evilcape.example.com/x", nil, ""},
		{"https://cape.example.com/", "https://cape.example.com.evil.org/x", nil, ""},
		{"https://cape.example.com/", "https://pool.example.org/x", []string{"example.org"}, ""},
		{"https://1.2.3.4/", "https://9.1.2.3.4/x", nil, ""},
		{"https://cape.example.com/", "https://ann@cape.example.com/x", nil, ""},
		{"https://cape.example.com/", "https://cape.example.com/x#y", nil, ""},
		{"https://cape.example.com/", "https:///x", nil, ""},
		{"https://cape.example.com/", "file:///x", nil, ""},
		{"https://cape.example.com/", "javascript:x", nil, ""},
		{"https://cape.example.com/", "", nil, ""},
		{"https://cape.example.com/", "://", nil, ""},
	} {
		from, err := url.Parse(tc.from)
		if err != nil {
			t.Fatal(err)
		}
		to, err := follow(from, &http.Response{Header: http.Header{"Location": {tc.location}}}, tc.allowed)
		switch {
		case tc.want == "" && !errors.Is(err, ErrRedirect):
			t.Errorf("%s to %q: %v, %v; want ErrRedirect", tc.from, tc.location, to, err)
		case tc.want != "" && (err != nil || to.String() != tc.want):
			t.Errorf("%s to %q: %v, %v; want %s", tc.from, tc.location, to, err, tc.want)
		}
	}
}

func TestRemote(t *testing.T) {
	for body, want := range map[string]RemoteError{
		`{"error":"e","message":"m","code":"quota"}`:     {Code: "quota", Text: "e", Advice: "m", Status: 429},
		`{"error":"quota: e","code":"quota"}`:            {Code: "quota", Text: "e", Status: 429},
		`{"message":"m"}`:                                {Code: "quota", Text: "m", Status: 429},
		`{"error":"same","message":"same"}`:              {Code: "quota", Text: "same", Status: 429},
		`{"error":"token is expired","code":"whatever"}`: {Code: "whatever", Text: "token is expired", Status: 429},
	} {
		if got := *remote(429, []byte(body)); got != want {
			t.Errorf("%s: %+v, want %+v", body, got, want)
		}
	}
	for status, code := range map[int]string{400: "invalid_request", 401: "unauthorized", 403: "unauthorized", 404: "not_found", 413: "too_large", 418: "invalid_request", 500: "internal", 502: "unavailable", 503: "unavailable"} {
		if got := remote(status, []byte("<html>")); got.Code != code || got.Text == "" {
			t.Errorf("%d: %+v, want %s", status, got, code)
		}
	}
	if e := remote(401, []byte(`{"error":"token is expired: since noon"}`)); !e.Expired() {
		t.Error("an expired token is not seen")
	}
}
