package sigv4

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	v4 "github.com/aws/aws-sdk-go-v2/aws/signer/v4"
)

const (
	secret = "wJalrXUtnFEMI/K7MDENG+bPxRfiCYEXAMPLEKEY"
	region = "eu-central-1"
)

var at = time.Date(2026, 2, 3, 23, 59, 0, 0, time.UTC)

// request makes a request as AWS's SDK signs it.
func request(t testing.TB, body string, when time.Time, region, service string) *http.Request {
	t.Helper()
	r := httptest.NewRequest(http.MethodPost, "https://kms.localkms.internal:4443/", strings.NewReader(body))
	r.Header.Set("Content-Type", "application/x-amz-json-1.1")
	r.Header.Set("X-Amz-Target", "TrentService.ListKeys")
	r.Header.Set("User-Agent", "test")
	sum := sha256.Sum256([]byte(body))
	credentials := aws.Credentials{AccessKeyID: "ASIATEST", SecretAccessKey: secret, SessionToken: "token+/="}
	if err := v4.NewSigner().SignHTTP(context.Background(), credentials, r, hex.EncodeToString(sum[:]), service, region, when); err != nil {
		t.Fatal(err)
	}
	return r
}

func verify(r *http.Request, key string, now time.Time) error {
	body, err := io.ReadAll(r.Body)
	if err != nil {
		return err
	}
	s, err := Parse(r)
	if err != nil {
		return err
	}
	return s.Verify(key, body, region, "kms", now)
}

func TestSDKSignatureVerifies(t *testing.T) {
	for _, body := range []string{"", "{}", strings.Repeat("x", 10_000)} {
		r := request(t, body, at, region, "kms")
		if err := verify(r, secret, at.Add(4*time.Minute)); err != nil {
			t.Errorf("body of %d bytes: %v", len(body), err)
		}
		s, err := Parse(r)
		if err != nil {
			t.Fatal(err)
		}
		if s.AccessKeyID != "ASIATEST" || s.Token != "token+/=" || s.Region != region || s.Service != "kms" {
			t.Errorf("parsed as %+v", s)
		}
	}
}

// "post-vanilla" of AWS's published test suite for Signature Version 4.
func TestPublishedVector(t *testing.T) {
	r := httptest.NewRequest(http.MethodPost, "/", nil)
	r.Host = "example.amazonaws.com"
	r.Header.Set("X-Amz-Date", "20150830T123600Z")
	r.Header.Set("Authorization", "AWS4-HMAC-SHA256 Credential=AKIDEXAMPLE/20150830/us-east-1/service/aws4_request, "+
		"SignedHeaders=host;x-amz-date, Signature=5da7c1a2acd57cee7505fc6676e4e544621c30862966e37dddb68e92efbe5d6b")
	s, err := Parse(r)
	if err != nil {
		t.Fatal(err)
	}
	if err := s.Verify("wJalrXUtnFEMI/K7MDENG+bPxRfiCYEXAMPLEKEY", nil, "us-east-1", "service", time.Date(2015, 8, 30, 12, 36, 0, 0, time.UTC)); err != nil {
		t.Error(err)
	}
}

func TestRefusals(t *testing.T) {
	set := func(name, value string) func(*http.Request) {
		return func(r *http.Request) { r.Header.Set(name, value) }
	}
	replace := func(old, new string) func(*http.Request) {
		return func(r *http.Request) {
			r.Header.Set("Authorization", strings.Replace(r.Header.Get("Authorization"), old, new, 1))
		}
	}
	for _, tc := range []struct {
		name   string
		change func(*http.Request)
		want   error
	}{
		{"unsigned", func(r *http.Request) { r.Header.Del("Authorization") }, ErrMissing},
		{"no date", func(r *http.Request) { r.Header.Del("X-Amz-Date") }, ErrIncomplete},
		{"date of another form", set("X-Amz-Date", at.Format(time.RFC3339)), ErrIncomplete},
		{"another time", set("X-Amz-Date", at.Add(time.Second).Format(timeFormat)), ErrMismatch},
		{"other body", func(r *http.Request) { r.Body = io.NopCloser(strings.NewReader("{} ")) }, ErrMismatch},
		{"other host", func(r *http.Request) { r.Host = "evil.example" }, ErrMismatch},
		{"other target", set("X-Amz-Target", "TrentService.Decrypt"), ErrMismatch},
		{"other method", func(r *http.Request) { r.Method = http.MethodPut }, ErrMismatch},
		{"other token", set("X-Amz-Security-Token", "other"), ErrMismatch},
		{"other path", func(r *http.Request) { r.URL.Path = "/x" }, ErrIncomplete},
		{"query", func(r *http.Request) { r.URL.RawQuery = "Action=Decrypt" }, ErrIncomplete},
		{"unsigned x-amz header", set("X-Amz-Extra", "1"), ErrIncomplete},
		{"two targets", func(r *http.Request) { r.Header.Add("X-Amz-Target", "TrentService.Decrypt") }, ErrIncomplete},
		{"two tokens", func(r *http.Request) { r.Header.Add("X-Amz-Security-Token", "x") }, ErrIncomplete},
		{"two signatures", func(r *http.Request) { r.Header.Add("Authorization", "x") }, ErrIncomplete},
		{"other algorithm", replace("AWS4-HMAC-SHA256", "AWS4-ECDSA-P256-SHA256"), ErrIncomplete},
		{"host not signed", replace("host;", ""), ErrIncomplete},
		{"headers unsorted", replace("host;x-amz-date", "x-amz-date;host"), ErrIncomplete},
		{"header twice", replace("host;", "host;host;"), ErrIncomplete},
		{"signed header that is absent", replace("host;", "host;missing;"), ErrIncomplete},
		{"upper case header", replace("content-type", "Content-type"), ErrIncomplete},
		{"short signature", replace("Signature=", "Signature=00"), ErrIncomplete},
		{"scope of three parts", replace("/aws4_request", ""), ErrIncomplete},
		{"part twice", replace("Signature=", "Credential=x, Signature="), ErrIncomplete},
		{"other region in scope", replace("/"+region+"/", "/us-east-1/"), ErrScope},
		{"other service in scope", replace("/kms/", "/sts/"), ErrScope},
		{"other day in scope", replace("20260203", "20260204"), ErrScope},
		{"false content hash", set("X-Amz-Content-Sha256", "UNSIGNED-PAYLOAD"), ErrIncomplete},
	} {
		t.Run(tc.name, func(t *testing.T) {
			r := request(t, "{}", at, region, "kms")
			tc.change(r)
			if err := verify(r, secret, at); !errors.Is(err, tc.want) {
				t.Errorf("got %v, want %v", err, tc.want)
			}
		})
	}
}

func TestContentHashMustBeTheBodys(t *testing.T) {
	r := httptest.NewRequest(http.MethodPost, "/", strings.NewReader("{}"))
	r.Header.Set("X-Amz-Content-Sha256", "UNSIGNED-PAYLOAD")
	c := aws.Credentials{AccessKeyID: "ASIATEST", SecretAccessKey: secret}
	if err := v4.NewSigner().SignHTTP(t.Context(), c, r, "UNSIGNED-PAYLOAD", "kms", region, at); err != nil {
		t.Fatal(err)
	}
	if err := verify(r, secret, at); !errors.Is(err, ErrMismatch) {
		t.Errorf("unsigned payload: %v", err)
	}
}

// Also where the signature itself is over the real hash.
func TestContentHashMayNotLie(t *testing.T) {
	r := httptest.NewRequest(http.MethodPost, "/", strings.NewReader("{}"))
	r.Header.Set("X-Amz-Content-Sha256", strings.Repeat("0", 64))
	sum := sha256.Sum256([]byte("{}"))
	c := aws.Credentials{AccessKeyID: "ASIATEST", SecretAccessKey: secret}
	if err := v4.NewSigner().SignHTTP(t.Context(), c, r, hex.EncodeToString(sum[:]), "kms", region, at); err != nil {
		t.Fatal(err)
	}
	if err := verify(r, secret, at); !errors.Is(err, ErrMismatch) {
		t.Errorf("false content hash: %v", err)
	}
}

func TestSignedElsewhereOrOtherwise(t *testing.T) {
	for _, tc := range []struct {
		name            string
		region, service string
		key             string
		now             time.Time
		want            error
	}{
		{"other region", "us-east-1", "kms", secret, at, ErrScope},
		{"other service", region, "sts", secret, at, ErrScope},
		{"other key", region, "kms", secret + "x", at, ErrMismatch},
		{"too old", region, "kms", secret, at.Add(MaxSkew + time.Second), ErrTime},
		{"from the future", region, "kms", secret, at.Add(-MaxSkew - time.Second), ErrTime},
		{"old enough", region, "kms", secret, at.Add(MaxSkew), nil},
		{"over midnight", region, "kms", secret, at.Add(2 * time.Minute), nil},
	} {
		t.Run(tc.name, func(t *testing.T) {
			if err := verify(request(t, "{}", at, tc.region, tc.service), tc.key, tc.now); !errors.Is(err, tc.want) {
				t.Errorf("got %v, want %v", err, tc.want)
			}
		})
	}
}

// No header makes Parse panic or verify under another key.
func FuzzParse(f *testing.F) {
	good := request(f, "{}", at, region, "kms")
	f.Add(good.Header.Get("Authorization"), good.Header.Get("X-Amz-Date"), "{}")
	f.Add("AWS4-HMAC-SHA256 Credential=a/b/c/d/aws4_request,SignedHeaders=host,Signature=", "20260203T235900Z", "")
	f.Add("AWS4-HMAC-SHA256 ,=,", "", "")
	f.Fuzz(func(t *testing.T, auth, date, body string) {
		r := httptest.NewRequest(http.MethodPost, "/", nil)
		r.Header["Authorization"] = []string{auth}
		r.Header["X-Amz-Date"] = []string{date}
		s, err := Parse(r)
		if err != nil {
			if !errors.Is(err, ErrMissing) && !errors.Is(err, ErrIncomplete) {
				t.Fatalf("unclassified error %v", err)
			}
			return
		}
		if s.Verify("a key that signed nothing", []byte(body), s.Region, s.Service, s.at) == nil {
			t.Fatal("verifies under a key that signed nothing")
		}
		if !bytes.HasPrefix([]byte(s.canonical), []byte("POST\n/\n\n")) {
			t.Fatal("canonical request does not begin with the request line")
		}
	})
}
