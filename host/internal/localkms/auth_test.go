package localkms

import (
	"bytes"
	"context"
	"crypto/sha256"
	"crypto/tls"
	"encoding/hex"
	"encoding/json"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	v4 "github.com/aws/aws-sdk-go-v2/aws/signer/v4"
	"github.com/aws/aws-sdk-go-v2/service/kms"
	"github.com/aws/aws-sdk-go-v2/service/sts"

	"github.com/cape-functions/cape/core/wire"
)

// signedRequest makes a request without the SDK's client around it.
func signedRequest(t testing.TB, c wire.Credentials, target, body string, at time.Time) *http.Request {
	t.Helper()
	r := httptest.NewRequest(http.MethodPost, "https://"+HostName+"/", strings.NewReader(body))
	service, kind := "kms", jsonType
	if target == "" {
		service, kind = "sts", "application/x-www-form-urlencoded"
	} else {
		r.Header.Set("X-Amz-Target", targetPrefix+target)
	}
	r.Header.Set("Content-Type", kind)
	sum := sha256.Sum256([]byte(body))
	key := aws.Credentials{AccessKeyID: c.AccessKeyID, SecretAccessKey: c.SecretAccessKey, SessionToken: c.Token}
	if err := v4.NewSigner().SignHTTP(context.Background(), key, r, hex.EncodeToString(sum[:]), service, testRegion, at); err != nil {
		t.Fatal(err)
	}
	return r
}

// send returns status and error code.
func send(t testing.TB, s *Server, r *http.Request) (int, string) {
	t.Helper()
	w := httptest.NewRecorder()
	s.ServeHTTP(w, r)
	var e struct {
		Type string `json:"__type"`
	}
	if w.Header().Get("Content-Type") == jsonType && w.Body.Len() > 0 {
		if err := json.Unmarshal(w.Body.Bytes(), &e); err != nil {
			t.Errorf("answer is not JSON: %s", w.Body)
		}
	} else if _, code, ok := strings.Cut(w.Body.String(), "<Code>"); ok {
		e.Type, _, _ = strings.Cut(code, "</Code>")
	}
	return w.Code, e.Type
}

func TestRequestsThatAreRefused(t *testing.T) {
	w := newWorld(t)
	good := w.server.Credentials(testRole)
	other := w.server.Credentials(adminRole)
	elsewhere := newWorld(t).server.Credentials(testRole)
	with := func(change func(*wire.Credentials)) wire.Credentials {
		c := good
		change(&c)
		return c
	}
	request := func(c wire.Credentials, at time.Time) *http.Request { return signedRequest(t, c, "ListKeys", "{}", at) }
	now := time.Now()
	for _, tc := range []struct {
		name   string
		r      *http.Request
		status int
		code   string
	}{
		{"good", request(good, now), 200, ""},
		{"unsigned", func() *http.Request { r := request(good, now); r.Header.Del("Authorization"); return r }(), 400, codeMissingToken},
		{"no token", request(with(func(c *wire.Credentials) { c.Token = "" }), now), 400, codeUnrecognized},
		{"garbage token", request(with(func(c *wire.Credentials) { c.Token = "AAAA" }), now), 400, codeUnrecognized},
		{"huge token", request(with(func(c *wire.Credentials) { c.Token = strings.Repeat("A", 20_000) }), now), 400, codeUnrecognized},
		{"another's token", request(with(func(c *wire.Credentials) { c.Token = other.Token }), now), 400, codeUnrecognized},
		{"another server's credentials", request(elsewhere, now), 400, codeUnrecognized},
		{"wrong secret", request(with(func(c *wire.Credentials) { c.SecretAccessKey = other.SecretAccessKey }), now), 400, codeInvalidSignature},
		{"stale", request(good, now.Add(-6*time.Minute)), 400, codeInvalidSignature},
		{"from the future", request(good, now.Add(6*time.Minute)), 400, codeInvalidSignature},
		{"other body", func() *http.Request {
			r := request(good, now)
			r.Body = io.NopCloser(strings.NewReader(`{"Limit":1}`))
			return r
		}(), 400, codeInvalidSignature},
		{"other operation", func() *http.Request {
			r := request(good, now)
			r.Header.Set("X-Amz-Target", targetPrefix+"CreateKey")
			return r
		}(), 400, codeInvalidSignature},
		{"GET", func() *http.Request { r := request(good, now); r.Method = http.MethodGet; return r }(), 400, codeUnknownOperation},
		{"other service's target", func() *http.Request {
			r := request(good, now)
			r.Header.Set("X-Amz-Target", "DynamoDB_20120810.ListTables")
			return r
		}(), 400, codeUnknownOperation},
		{"unknown operation", signedRequest(t, good, "Sign", "{}", now), 400, codeUnknownOperation},
		{"not JSON", signedRequest(t, good, "ListKeys", "{", now), 400, codeSerialization},
		{"JSON of another form", signedRequest(t, good, "ListKeys", `{"Limit":"x"}`, now), 400, codeSerialization},
		{"unknown parameter", signedRequest(t, good, "ListKeys", `{"Limits":1}`, now), 400, codeSerialization},
		{"two JSON values", signedRequest(t, good, "ListKeys", `{}{}`, now), 400, codeSerialization},
		{"too large", signedRequest(t, good, "ListKeys", strings.Repeat(" ", maxBody+1), now), 413, codeTooLarge},
		{"STS for KMS", func() *http.Request {
			r := signedRequest(t, good, "", "Action=GetCallerIdentity&Version=2011-06-15", now)
			r.Header.Set("X-Amz-Target", targetPrefix+"ListKeys")
			return r
		}(), 400, codeIncompleteSig},
		{"STS unsigned", func() *http.Request {
			r := signedRequest(t, good, "", "Action=GetCallerIdentity&Version=2011-06-15", now)
			r.Header.Del("Authorization")
			return r
		}(), 403, "MissingAuthenticationToken"},
		{"STS wrong secret", signedRequest(t, with(func(c *wire.Credentials) { c.SecretAccessKey = "x" }), "", "Action=GetCallerIdentity&Version=2011-06-15", now), 403, "SignatureDoesNotMatch"},
		{"STS other action", signedRequest(t, good, "", "Action=AssumeRole&Version=2011-06-15", now), 400, "InvalidAction"},
		{"STS other version", signedRequest(t, good, "", "Action=GetCallerIdentity&Version=2020-01-01", now), 400, "InvalidAction"},
		{"STS not a form", signedRequest(t, good, "", "%zz", now), 400, codeSerialization},
		{"STS good", signedRequest(t, good, "", "Action=GetCallerIdentity&Version=2011-06-15", now), 200, ""},
	} {
		t.Run(tc.name, func(t *testing.T) {
			if status, code := send(t, w.server, tc.r); status != tc.status || code != tc.code {
				t.Errorf("got %d %s, want %d %s", status, code, tc.status, tc.code)
			}
		})
	}
}

func TestOtherRegionIsRefused(t *testing.T) {
	w := newWorld(t)
	c := w.kms(testRole, func(o *kms.Options) { o.Region = "us-east-1" })
	_, err := c.ListKeys(t.Context(), &kms.ListKeysInput{})
	wantCode(t, err, codeInvalidSignature)
}

func TestCredentialsExpire(t *testing.T) {
	w := newWorld(t)
	c := w.server.Credentials(testRole)
	expires, err := time.Parse(time.RFC3339, c.Expiration)
	if err != nil || time.Until(expires) > credentialsLife || time.Until(expires) < credentialsLife-time.Minute {
		t.Fatalf("expiration %q: %v", c.Expiration, err)
	}
	w.shift.Store(int64(credentialsLife))
	at := w.now()
	if _, code := send(t, w.server, signedRequest(t, c, "ListKeys", "{}", at)); code != codeExpiredToken {
		t.Errorf("got %q", code)
	}
	if _, code := send(t, w.server, signedRequest(t, c, "", "Action=GetCallerIdentity&Version=2011-06-15", at)); code != "ExpiredToken" {
		t.Errorf("STS: got %q", code)
	}
	if _, code := send(t, w.server, signedRequest(t, w.server.Credentials(testRole), "ListKeys", "{}", at)); code != "" {
		t.Errorf("fresh ones: got %q", code)
	}
}

// Callers that stop sending hold up nobody, however many they are.
func TestBodiesThatNeverEnd(t *testing.T) {
	w := newWorld(t)
	for range maxInFlight + 6 {
		conn, err := tls.Dial("tcp", strings.TrimPrefix(w.url, "https://"), w.transport.TLSClientConfig)
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close()
		if _, err := io.WriteString(conn, "POST / HTTP/1.1\r\nHost: localhost\r\nContent-Length: 100\r\n\r\n{"); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := w.kms(testRole).ListKeys(t.Context(), &kms.ListKeysInput{}); err != nil {
		t.Error(err)
	}
}

// Nothing secret reaches the log: secrets, tokens, plaintexts, contexts.
func TestLogHoldsNoSecrets(t *testing.T) {
	var log bytes.Buffer
	w := newWorld(t, func(c *Config) {
		c.Log = slog.New(slog.NewJSONHandler(&log, &slog.HandlerOptions{Level: slog.LevelDebug}))
	})
	creds := w.server.Credentials(adminRole)
	const canary = "canary-plaintext"
	key := w.newKey("")
	c := w.kms(adminRole)
	context := map[string]string{"canary-name": "canary-value"}
	out, err := c.Encrypt(t.Context(), &kms.EncryptInput{KeyId: &key, Plaintext: []byte(canary), EncryptionContext: context})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := c.Decrypt(t.Context(), &kms.DecryptInput{CiphertextBlob: out.CiphertextBlob, EncryptionContext: context}); err != nil {
		t.Fatal(err)
	}
	_, err = c.Decrypt(t.Context(), &kms.DecryptInput{CiphertextBlob: out.CiphertextBlob})
	wantCode(t, err, codeInvalidCiphertext)
	if _, err := w.sts(adminRole).GetCallerIdentity(t.Context(), &sts.GetCallerIdentityInput{}); err != nil {
		t.Fatal(err)
	}
	send(t, w.server, signedRequest(t, creds, "ListKeys", `{"canary-field":1}`, time.Now()))
	text := log.String()
	for _, secret := range []string{"canary", creds.SecretAccessKey, creds.Token, "Y2FuYXJ5"} {
		if strings.Contains(text, secret) {
			t.Errorf("log holds %.20q", secret)
		}
	}
	for _, want := range []string{"Encrypt", "GetCallerIdentity", codeInvalidCiphertext, "assumed-role/admin/localkms"} {
		if !strings.Contains(text, want) {
			t.Errorf("log lacks %s", want)
		}
	}
}

// Any bytes get an answer that is JSON and not the server's own failure.
func FuzzRequest(f *testing.F) {
	w := newWorld(f)
	creds := w.server.Credentials(adminRole)
	key := w.newKey("")
	names := make([]string, 0, len(w.server.operations))
	for name := range w.server.operations {
		names = append(names, name)
	}
	for _, name := range names {
		f.Add(name, `{"KeyId":"`+key+`"}`)
	}
	f.Add("CreateKey", `{"Policy":"{\"Statement\":[]}","Tags":[{"TagKey":"a","TagValue":"b"}]}`)
	f.Add("Decrypt", `{"CiphertextBlob":"Y2FwZWttczEkMTExMTExMTEtMTExMS0xMTExLTExMTEtMTExMTExMTExMTExAAAA","EncryptionContext":{"a":"b"},"Recipient":{"AttestationDocument":"hA==","KeyEncryptionAlgorithm":"RSAES_OAEP_SHA_256"}}`)
	f.Add("CreateGrant", `{"KeyId":"`+key+`","GranteePrincipal":"`+testRole+`","Operations":["Decrypt"],"Constraints":{"EncryptionContextSubset":{"a":"b"}}}`)
	f.Add("ListKeys", `{"Limit":1,"Marker":"AAAA"}`)
	f.Add("ImportKeyMaterial", `{"ValidTo":1e400}`)
	f.Add("", "Action=GetCallerIdentity&Version=2011-06-15")
	f.Fuzz(func(t *testing.T, target, body string) {
		if strings.HasPrefix(target, "GenerateDataKeyPair") || strings.ContainsFunc(target, func(r rune) bool { return r <= ' ' || r > '~' }) {
			return // slow, and not a header
		}
		status, code := send(t, w.server, signedRequest(t, creds, target, body, time.Now()))
		if status >= 500 {
			t.Fatalf("%s %q: %d %s", target, body, status, code)
		}
	})
}
