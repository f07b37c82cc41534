package keyring_test

import (
	"context"
	"crypto/tls"
	"errors"
	"net"
	"net/http"
	"net/http/httptest"
	"testing"

	"github.com/cape-functions/cape/enclave/internal/keyring"
	"github.com/cape-functions/cape/enclave/internal/keyring/testkit"
)

type testkitCall = testkit.Call

func TestNewRefuses(t *testing.T) {
	r := newRig(t)
	for _, tc := range []struct {
		name   string
		change func(c *keyring.Config)
	}{
		{"no HTTP client", func(c *keyring.Config) { c.HTTP = nil }},
		{"no credentials", func(c *keyring.Config) { c.Credentials = nil }},
		{"no security module", func(c *keyring.Config) { c.NSM = nil }},
		{"no key", func(c *keyring.Config) { c.KeyARN = "" }},
		{"an alias", func(c *keyring.Config) { c.KeyARN = "arn:aws:kms:eu-west-1:111122223333:alias/kek" }},
		{"the id alone", func(c *keyring.Config) { c.KeyARN = "12345678-1234-1234-1234-123456789012" }},
		{"a multi-Region key", func(c *keyring.Config) {
			c.KeyARN = "arn:aws:kms:eu-west-1:111122223333:key/mrk-12345678123412341234123456789012"
		}},
		{"a key of another service", func(c *keyring.Config) {
			c.KeyARN = "arn:aws:s3:eu-west-1:111122223333:key/12345678-1234-1234-1234-123456789012"
		}},
		{"a key with something after it", func(c *keyring.Config) { c.KeyARN += "\n" }},
		{"a Region that is a host", func(c *keyring.Config) {
			c.KeyARN = "arn:aws:kms:evil.example/x-1:111122223333:key/12345678-1234-1234-1234-123456789012"
		}},
		{"no role", func(c *keyring.Config) { c.Role = "" }},
		{"a session instead of a role", func(c *keyring.Config) { c.Role = identity }},
		{"a role of another account", func(c *keyring.Config) { c.Role = "arn:aws:iam::444455556666:role/cape" }},
		{"a role of another partition", func(c *keyring.Config) { c.Role = "arn:aws-cn:iam::111122223333:role/cape" }},
		{"an endpoint without TLS", func(c *keyring.Config) { c.KMSEndpoint = "http://127.0.0.1" }},
		{"an endpoint with a path", func(c *keyring.Config) { c.STSEndpoint = "https://127.0.0.1/x" }},
		{"an endpoint with a user", func(c *keyring.Config) { c.STSEndpoint = "https://u@127.0.0.1" }},
		{"an endpoint that is no URL", func(c *keyring.Config) { c.KMSEndpoint = "\x00" }},
	} {
		cfg := r.cfg
		tc.change(&cfg)
		if k, err := keyring.New(cfg); k != nil || !errors.Is(err, keyring.ErrConfig) {
			t.Errorf("%s: %v", tc.name, err)
		}
	}
}

func TestEndpoints(t *testing.T) {
	const id = ":111122223333:key/12345678-1234-1234-1234-123456789012"
	for arn, want := range map[string][2]string{
		"arn:aws:kms:eu-west-1" + id:            {"https://kms.eu-west-1.amazonaws.com", "https://sts.eu-west-1.amazonaws.com"},
		"arn:aws:kms:ap-southeast-2" + id:       {"https://kms.ap-southeast-2.amazonaws.com", "https://sts.ap-southeast-2.amazonaws.com"},
		"arn:aws-cn:kms:cn-north-1" + id:        {"https://kms.cn-north-1.amazonaws.com.cn", "https://sts.cn-north-1.amazonaws.com.cn"},
		"arn:aws-us-gov:kms:us-gov-west-1" + id: {"https://kms.us-gov-west-1.amazonaws.com", "https://sts.us-gov-west-1.amazonaws.com"},
	} {
		kms, sts, err := keyring.Endpoints(arn)
		if err != nil || kms != want[0] || sts != want[1] {
			t.Errorf("%s: %s %s %v", arn, kms, sts, err)
		}
	}
	for _, arn := range []string{
		"", "arn:aws:kms:cn-north-1" + id, "arn:aws:kms:us-gov-west-1" + id, "arn:aws-cn:kms:eu-west-1" + id, "arn:aws-us-gov:kms:us-east-1" + id,
		"arn:aws:kms:us-iso-east-1" + id, "arn:aws:kms:us-isob-east-1" + id, "arn:aws:kms:eusc-de-east-1" + id, "arn:aws-iso:kms:us-iso-east-1" + id,
	} {
		if _, _, err := keyring.Endpoints(arn); !errors.Is(err, keyring.ErrConfig) {
			t.Errorf("%s: %v", arn, err)
		}
	}
}

// Whatever the environment says, requests go to the endpoint that the ARN names.
func TestEnvironmentIsNotRead(t *testing.T) {
	r := newRig(t)
	for name, value := range map[string]string{
		"AWS_ENDPOINT_URL": r.kms.URL(), "AWS_ENDPOINT_URL_KMS": r.kms.URL(), "AWS_ENDPOINT_URL_STS": r.kms.URL(),
		"AWS_REGION": "us-east-1", "AWS_DEFAULT_REGION": "us-east-1", "AWS_USE_FIPS_ENDPOINT": "true", "AWS_USE_DUALSTACK_ENDPOINT": "true",
		"AWS_ACCESS_KEY_ID": "AKIAEVIL", "AWS_SECRET_ACCESS_KEY": "evil", "AWS_SESSION_TOKEN": "evil", "AWS_PROFILE": "evil", "AWS_CA_BUNDLE": "/evil",
		"AWS_CONFIG_FILE": "/evil", "AWS_MAX_ATTEMPTS": "99", "HTTPS_PROXY": r.kms.URL(), "https_proxy": r.kms.URL(), "ALL_PROXY": r.kms.URL(),
	} {
		t.Setenv(name, value)
	}
	var dialled []string
	errDial := errors.New("not dialled")
	cfg := r.cfg
	cfg.KMSEndpoint, cfg.STSEndpoint = "", ""
	cfg.HTTP = keyring.NewHTTPClient(func(_ context.Context, _, address string) (net.Conn, error) {
		dialled = append(dialled, address)
		return nil, errDial
	}, r.kms.Roots())
	k, err := keyring.New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	if _, _, err := k.NewDataKey(t.Context(), functionContext()); !errors.Is(err, errDial) {
		t.Error(err)
	}
	if _, err := k.Inspect(t.Context()); !errors.Is(err, errDial) {
		t.Error(err)
	}
	for i, address := range dialled {
		want := "kms.eu-west-1.amazonaws.com:443"
		if i >= len(dialled)/2 {
			want = "sts.eu-west-1.amazonaws.com:443"
		}
		if address != want {
			t.Errorf("dialled %s", address)
		}
	}
	if len(dialled) != 6 { // three attempts each
		t.Errorf("dialled %d times", len(dialled))
	}
}

// A redirect is an answer like any other, never a way to another host.
func TestNoRedirect(t *testing.T) {
	asked := 0
	elsewhere := httptest.NewTLSServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) { asked++ }))
	defer elsewhere.Close()
	r := newRig(t)
	for _, status := range []int{http.StatusMovedPermanently, http.StatusFound, http.StatusSeeOther, http.StatusTemporaryRedirect} {
		server := httptest.NewTLSServer(http.RedirectHandler(elsewhere.URL, status))
		cfg := r.cfg
		cfg.KMSEndpoint = server.URL
		// A client that would follow: the keyring takes its transport, not its habits.
		cfg.HTTP = &http.Client{Transport: &http.Transport{TLSClientConfig: &tls.Config{InsecureSkipVerify: true}}}
		k, err := keyring.New(cfg)
		if err != nil {
			t.Fatal(err)
		}
		if _, _, err := k.NewDataKey(t.Context(), functionContext()); err == nil {
			t.Errorf("%d was an answer", status)
		}
		server.Close()
	}
	if asked != 0 {
		t.Errorf("%d redirects were followed", asked)
	}
}
