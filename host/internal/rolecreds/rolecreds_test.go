package rolecreds_test

import (
	"encoding/json"
	"errors"
	"io"
	"net/http"
	"net/http/httptest"
	"sync"
	"testing"
	"time"

	"github.com/cape-functions/cape/host/internal/rolecreds"
)

// metadata plays the instance metadata service, version 2 alone.
type metadata struct {
	mu    sync.Mutex
	life  time.Duration
	none  bool
	given int
}

func (m *metadata) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if r.Method == http.MethodPut && r.URL.Path == "/latest/api/token" {
		w.Header().Set("X-Aws-Ec2-Metadata-Token-Ttl-Seconds", r.Header.Get("X-Aws-Ec2-Metadata-Token-Ttl-Seconds"))
		_, _ = io.WriteString(w, "session")
		return
	}
	if r.Header.Get("X-Aws-Ec2-Metadata-Token") != "session" {
		http.Error(w, "no token", http.StatusUnauthorized)
		return
	}
	switch {
	case m.none:
		http.NotFound(w, r)
	case r.URL.Path == "/latest/meta-data/iam/security-credentials/":
		_, _ = io.WriteString(w, "cape-enclave")
	case r.URL.Path == "/latest/meta-data/iam/security-credentials/cape-enclave":
		m.given++
		_ = json.NewEncoder(w).Encode(map[string]string{"Code": "Success", "AccessKeyId": "AKIAEXAMPLE", "SecretAccessKey": "s", "Token": "t",
			"Expiration": time.Now().Add(m.life).UTC().Format(time.RFC3339)})
	case r.URL.Path == "/latest/dynamic/instance-identity/document":
		_, _ = io.WriteString(w, `{"region":"eu-west-1"}`)
	default:
		http.NotFound(w, r)
	}
}

func start(t *testing.T, m *metadata) *rolecreds.Source {
	t.Helper()
	s := httptest.NewServer(m)
	t.Cleanup(s.Close)
	return rolecreds.New(s.URL)
}

func TestCredentialsAreKept(t *testing.T) {
	m := &metadata{life: 6 * time.Hour}
	s := start(t, m)
	for range 3 {
		c, err := s.Get(t.Context())
		if err != nil || c.AccessKeyID != "AKIAEXAMPLE" || c.SecretAccessKey != "s" || c.Token != "t" {
			t.Fatalf("%v", err)
		}
		if end, err := time.Parse(time.RFC3339, c.Expiration); err != nil || time.Until(end) < 30*time.Minute {
			t.Errorf("they end %q, %v", c.Expiration, err)
		}
	}
	if m.given != 1 {
		t.Errorf("fetched %d times", m.given)
	}
}

func TestCredentialsAreRenewed(t *testing.T) {
	m := &metadata{life: 2 * time.Second}
	s := start(t, m)
	for i := range 2 {
		if i > 0 {
			time.Sleep(2100 * time.Millisecond)
		}
		if _, err := s.Get(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
	if m.given != 2 {
		t.Errorf("fetched %d times, want anew after their end", m.given)
	}
}

func TestNoRole(t *testing.T) {
	if _, err := start(t, &metadata{none: true}).Get(t.Context()); !errors.Is(err, rolecreds.ErrNone) {
		t.Errorf("%v", err)
	}
}

func TestRegion(t *testing.T) {
	if r, err := start(t, &metadata{}).Region(t.Context()); r != "eu-west-1" || err != nil {
		t.Errorf("%q, %v", r, err)
	}
}
