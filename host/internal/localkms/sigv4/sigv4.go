package sigv4

import (
	"crypto/hmac"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"time"
)

const (
	algorithm  = "AWS4-HMAC-SHA256"
	timeFormat = "20060102T150405Z"
	maxHeaders = 32
)

// Signed is a request's signature, taken apart and not yet verified.
type Signed struct {
	// AccessKeyID and Token say who signed.
	AccessKeyID, Token string
	// Region and Service are those of the credential's scope.
	Region, Service string

	day       string
	date      string
	at        time.Time
	headers   []string
	signature []byte
	canonical string // canonical request up to the payload hash
	bodyHash  string // x-amz-content-sha256, if given
}

// Parse reads the signature of r without looking at the body. Errors wrap
// ErrMissing or ErrIncomplete.
func Parse(r *http.Request) (*Signed, error) {
	for _, h := range []string{"Authorization", "X-Amz-Date", "X-Amz-Security-Token", "X-Amz-Target", "X-Amz-Content-Sha256", "Content-Type"} {
		if len(r.Header.Values(h)) > 1 {
			return nil, fmt.Errorf("%w: header %s stands more than once", ErrIncomplete, h)
		}
	}
	auth := r.Header.Get("Authorization")
	if auth == "" {
		return nil, ErrMissing
	}
	if r.URL.EscapedPath() != "/" || r.URL.RawQuery != "" {
		return nil, fmt.Errorf("%w: only the root path without a query is served", ErrIncomplete)
	}
	s := &Signed{
		Token:    r.Header.Get("X-Amz-Security-Token"),
		date:     r.Header.Get("X-Amz-Date"),
		bodyHash: r.Header.Get("X-Amz-Content-Sha256"),
	}
	var err error
	if s.at, err = time.Parse(timeFormat, s.date); err != nil {
		return nil, fmt.Errorf("%w: X-Amz-Date is missing or not of the form %s", ErrIncomplete, timeFormat)
	}
	if err := s.parseAuthorization(auth); err != nil {
		return nil, err
	}
	return s, s.canonicalize(r)
}

func (s *Signed) parseAuthorization(auth string) error {
	rest, ok := strings.CutPrefix(auth, algorithm+" ")
	if !ok {
		return fmt.Errorf("%w: the algorithm must be %s", ErrIncomplete, algorithm)
	}
	fields := map[string]string{}
	for part := range strings.SplitSeq(rest, ",") {
		k, v, ok := strings.Cut(strings.TrimSpace(part), "=")
		if _, twice := fields[k]; !ok || twice {
			return fmt.Errorf("%w: the Authorization header has a part without a value, or one twice", ErrIncomplete)
		}
		fields[k] = v
	}
	if len(fields) != 3 {
		return fmt.Errorf("%w: the Authorization header needs Credential, SignedHeaders and Signature", ErrIncomplete)
	}
	scope := strings.Split(fields["Credential"], "/")
	if len(scope) != 5 || scope[4] != "aws4_request" {
		return fmt.Errorf("%w: Credential must be KEY/DATE/REGION/SERVICE/aws4_request", ErrIncomplete)
	}
	s.AccessKeyID, s.day, s.Region, s.Service = scope[0], scope[1], scope[2], scope[3]
	s.headers = strings.Split(fields["SignedHeaders"], ";")
	sorted := slices.IsSorted(s.headers) && len(slices.Compact(slices.Clone(s.headers))) == len(s.headers)
	if !sorted || len(s.headers) > maxHeaders {
		return fmt.Errorf("%w: SignedHeaders must be sorted, each once, at most %d", ErrIncomplete, maxHeaders)
	}
	sig, err := hex.DecodeString(fields["Signature"])
	if err != nil || len(sig) != sha256.Size {
		return fmt.Errorf("%w: Signature must be 64 hexadecimal digits", ErrIncomplete)
	}
	s.signature = sig
	return nil
}

// canonicalize builds the canonical request. What steers the service must be
// covered: host and every x-amz- header that the request has.
func (s *Signed) canonicalize(r *http.Request) error {
	if !slices.Contains(s.headers, "host") {
		return fmt.Errorf("%w: the host header must be signed", ErrIncomplete)
	}
	for name := range r.Header {
		lower := strings.ToLower(name)
		if strings.HasPrefix(lower, "x-amz-") && !slices.Contains(s.headers, lower) {
			return fmt.Errorf("%w: header %s must be signed", ErrIncomplete, lower)
		}
	}
	var b strings.Builder
	b.WriteString(r.Method + "\n/\n\n")
	for _, name := range s.headers {
		if name == "" || name != strings.ToLower(name) {
			return fmt.Errorf("%w: names in SignedHeaders must be in lower case", ErrIncomplete)
		}
		values := r.Header.Values(name)
		switch {
		case name == "host":
			values = []string{r.Host}
		case name == "content-length" && len(values) == 0 && r.ContentLength >= 0:
			values = []string{strconv.FormatInt(r.ContentLength, 10)}
		case len(values) == 0:
			return fmt.Errorf("%w: signed header %s is missing", ErrIncomplete, name)
		}
		trimmed := make([]string, len(values))
		for i, v := range values {
			trimmed[i] = strings.Join(strings.Fields(v), " ")
		}
		b.WriteString(name + ":" + strings.Join(trimmed, ",") + "\n")
	}
	b.WriteString("\n" + strings.Join(s.headers, ";") + "\n")
	s.canonical = b.String()
	return nil
}

// Verify checks that secret signed the request with this body for region and
// service, not more than MaxSkew away from now. Errors wrap ErrScope, ErrTime
// or ErrMismatch.
func (s *Signed) Verify(secret string, body []byte, region, service string, now time.Time) error {
	switch skew := now.Sub(s.at); {
	case s.Region != region:
		return fmt.Errorf("%w: it says region %q, this is %q", ErrScope, s.Region, region)
	case s.Service != service:
		return fmt.Errorf("%w: it says service %q, this is %q", ErrScope, s.Service, service)
	case s.day != s.at.Format("20060102"):
		return fmt.Errorf("%w: the day of the credential is not that of the request", ErrScope)
	case skew > MaxSkew || skew < -MaxSkew:
		return fmt.Errorf("%w: the request is of %s and it is now %s", ErrTime, s.date, now.UTC().Format(timeFormat))
	}
	sum := sha256.Sum256(body)
	payload := hex.EncodeToString(sum[:])
	if s.bodyHash != "" && s.bodyHash != payload {
		return fmt.Errorf("%w: x-amz-content-sha256 is not the hash of the body", ErrMismatch)
	}
	if !hmac.Equal(s.signature, s.expected(secret, payload)) {
		return ErrMismatch
	}
	return nil
}

func (s *Signed) expected(secret, payload string) []byte {
	scope := s.day + "/" + s.Region + "/" + s.Service + "/aws4_request"
	request := sha256.Sum256([]byte(s.canonical + payload))
	key := []byte("AWS4" + secret)
	for _, part := range []string{s.day, s.Region, s.Service, "aws4_request"} {
		key = mac(key, part)
	}
	return mac(key, algorithm+"\n"+s.date+"\n"+scope+"\n"+hex.EncodeToString(request[:]))
}

func mac(key []byte, text string) []byte {
	h := hmac.New(sha256.New, key)
	h.Write([]byte(text))
	return h.Sum(nil)
}
