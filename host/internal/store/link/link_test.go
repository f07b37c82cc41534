package link

import (
	"bufio"
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
	"testing/iotest"
	"time"

	"github.com/google/go-cmp/cmp"
	"gocloud.dev/blob/memblob"

	"github.com/cape-functions/cape/core/wire"
	"github.com/cape-functions/cape/host/internal/store"
)

var quiet = slog.New(slog.DiscardHandler)

// client speaks to h as a runtime does, over connections that Handle got.
func client(t *testing.T, h http.Handler) *http.Client {
	t.Helper()
	path := filepath.Join(t.TempDir(), "s")
	l, err := net.Listen("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	s := NewServer(h, quiet)
	go func() {
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			go s.Handle(conn)
		}
	}()
	transport := &http.Transport{DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
		var d net.Dialer
		return d.DialContext(ctx, "unix", path)
	}}
	t.Cleanup(func() { transport.CloseIdleConnections(); l.Close(); s.Close() })
	return &http.Client{Transport: transport, Timeout: time.Minute}
}

func do(t *testing.T, c *http.Client, method, path string, body io.Reader) (int, []byte) {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), method, "http://host"+path, body)
	if err != nil {
		t.Fatal(err)
	}
	resp, err := c.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	return resp.StatusCode, b
}

func code(t *testing.T, body []byte) string {
	t.Helper()
	var e wire.ErrorBody
	if err := json.Unmarshal(body, &e); err != nil || e.Error == "" {
		t.Errorf("not an error's body: %q, %v", body, err)
	}
	return e.Code
}

func newStore(t *testing.T) *store.Store {
	t.Helper()
	db, err := store.OpenSQLite(filepath.Join(t.TempDir(), "db"))
	if err != nil {
		t.Fatal(err)
	}
	s, err := store.New(t.Context(), store.Config{DB: db, Blobs: store.Blobs{Bucket: memblob.OpenBucket(nil)}, Now: time.Now, Log: quiet})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { s.Close() })
	return s
}

func storeClient(t *testing.T) *http.Client {
	return client(t, Store{Records: newStore(t), Log: quiet, KeySet: func(iss string) (string, error) {
		if iss != "issuer" {
			return "", ErrNoIssuer
		}
		return "a.b.c", nil
	}}.Handler())
}

func function(t *testing.T, name string) wire.StoredFunction {
	t.Helper()
	sum := sha256.Sum256([]byte(name))
	m, err := (&wire.Manifest{V: 2, Owner: wire.Subject{Iss: "issuer", Sub: "alice|1"}, Name: name, Access: wire.AccessToken,
		Decrypt: wire.DecryptOwner, Checksum: sum[:], Salt: sum[:16]}).Encode()
	if err != nil {
		t.Fatal(err)
	}
	return wire.StoredFunction{ID: wire.FunctionID(m), Manifest: m, Wrapped: []byte("wrapped"), KEK: "arn:kek", Username: "alice|x", Size: 9}
}

func encode(t *testing.T, v any) []byte {
	t.Helper()
	b, err := wire.Marshal(v)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func framed(head []byte) []byte {
	return append(binary.BigEndian.AppendUint32(nil, uint32(len(head))), head...)
}

func TestFunctionsTravel(t *testing.T) {
	c := storeClient(t)
	f := function(t, "echo")
	body := bytes.Repeat([]byte("sealed "), 100_000)
	sent := append(framed(encode(t, f)), body...)
	if status, b := do(t, c, "PUT", "/v1/functions/"+f.ID, bytes.NewReader(sent)); status != 201 {
		t.Fatalf("%d %s", status, b)
	}
	for _, path := range []string{"/v1/functions/" + f.ID, "/v1/names/alice%7Cx/echo"} {
		if status, b := do(t, c, "GET", path, nil); status != 200 || !bytes.Equal(b, sent) {
			t.Errorf("%s: %d, %d bytes", path, status, len(b))
		}
	}
	for _, path := range []string{"/v1/functions/none", "/v1/functions/" + function(t, "other").ID, "/v1/names/alice/none", "/v1/names/a%2Fb/echo", "/v1/names/alice/..%2F"} {
		if status, b := do(t, c, "GET", path, nil); status != 404 || code(t, b) != wire.CodeNotFound {
			t.Errorf("%s: %d %s", path, status, b)
		}
	}
	if status, b := do(t, c, "PUT", "/v1/functions/"+f.ID, bytes.NewReader(sent)); status != 409 || code(t, b) != wire.CodeInvalidRequest {
		t.Errorf("stored twice: %d %s", status, b)
	}
}

func TestPutFunctionRefuses(t *testing.T) {
	c := storeClient(t)
	f := function(t, "echo")
	head := encode(t, f)
	for _, v := range []struct {
		name, id string
		body     []byte
	}{
		{"empty", f.ID, nil},
		{"cut in the length", f.ID, []byte{0, 0}},
		{"head too long", f.ID, binary.BigEndian.AppendUint32(nil, wire.MaxRecord+1)},
		{"head of 4 GiB", f.ID, binary.BigEndian.AppendUint32(nil, 1<<32-1)},
		{"cut in the head", f.ID, framed(head)[:20]},
		{"not CBOR", f.ID, framed([]byte("garbage"))},
		{"bytes after the head's CBOR", f.ID, framed(append(bytes.Clone(head), 0))},
		{"another function's route", function(t, "other").ID, framed(head)},
	} {
		t.Run(v.name, func(t *testing.T) {
			if status, b := do(t, c, "PUT", "/v1/functions/"+v.id, bytes.NewReader(v.body)); status != 400 || code(t, b) != wire.CodeInvalidRequest {
				t.Errorf("%d %s", status, b)
			}
		})
	}
	if status, _ := do(t, c, "GET", "/v1/functions/"+f.ID, nil); status != 404 {
		t.Errorf("a refused function is there: %d", status)
	}
}

// A body that ends early leaves nothing, and the next deploy works.
func TestPutFunctionCutShort(t *testing.T) {
	c := storeClient(t)
	f := function(t, "echo")
	sent := append(framed(encode(t, f)), make([]byte, 1<<20)...)
	req, err := http.NewRequestWithContext(t.Context(), "PUT", "http://host/v1/functions/"+f.ID, io.MultiReader(bytes.NewReader(sent), iotest.ErrReader(io.ErrClosedPipe)))
	if err != nil {
		t.Fatal(err)
	}
	if resp, err := c.Do(req); err == nil {
		resp.Body.Close()
		t.Fatalf("status %d", resp.StatusCode)
	}
	if status, _ := do(t, c, "GET", "/v1/functions/"+f.ID, nil); status != 404 {
		t.Errorf("half a function is there: %d", status)
	}
	if status, _ := do(t, c, "PUT", "/v1/functions/"+f.ID, bytes.NewReader(sent)); status != 201 {
		t.Errorf("the next try: %d", status)
	}
}

// fullDisk refuses every body after its first megabyte.
type fullDisk struct{ Records }

func (fullDisk) PutFunction(_ context.Context, _ wire.StoredFunction, body io.Reader) (*store.Function, error) {
	if _, err := io.CopyN(io.Discard, body, 1<<20); err != nil {
		return nil, err
	}
	return nil, fmt.Errorf("writing: %w", store.ErrFull)
}

// A sender that looks for an answer only when it has sent everything hears why.
func TestDiskFull(t *testing.T) {
	s := NewServer(Store{Records: fullDisk{}, Log: quiet}.Handler(), quiet)
	defer s.Close()
	here, there := net.Pipe()
	defer here.Close()
	here.SetDeadline(time.Now().Add(20 * time.Second))
	go s.Handle(there)
	f := function(t, "echo")
	const size = 100 << 20
	head := framed(encode(t, f))
	fmt.Fprintf(here, "PUT /v1/functions/%s HTTP/1.1\r\nHost: h\r\nContent-Length: %d\r\n\r\n%s", f.ID, size+len(head), head)
	if _, err := io.CopyN(here, zeros{}, size); err != nil {
		t.Fatal(err)
	}
	resp, err := http.ReadResponse(bufio.NewReader(here), nil)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	if b, err := io.ReadAll(resp.Body); err != nil || resp.StatusCode != 429 || code(t, b) != wire.CodeQuota {
		t.Errorf("%d %s %v", resp.StatusCode, b, err)
	}
}

type zeros struct{}

func (zeros) Read(p []byte) (int, error) { clear(p); return len(p), nil }

// sink takes bodies of any size and serves one, to measure what the link holds.
type sink struct {
	Records
	peak func()
}

func (s sink) PutFunction(_ context.Context, _ wire.StoredFunction, body io.Reader) (*store.Function, error) {
	_, err := io.CopyN(io.Discard, body, 300<<20)
	s.peak()
	return nil, errors.Join(err)
}

func (s sink) Function(context.Context, string) (*store.Function, error) {
	return &store.Function{Stored: 300 << 20}, nil
}

func (s sink) Body(context.Context, *store.Function) (io.ReadCloser, error) {
	s.peak()
	return io.NopCloser(io.LimitReader(zeros{}, 300<<20)), nil
}

func TestMemoryIsFlat(t *testing.T) {
	var before, now runtime.MemStats
	c := client(t, Store{Records: sink{peak: func() { runtime.ReadMemStats(&now) }}, Log: quiet}.Handler())
	f := function(t, "echo")
	runtime.GC()
	runtime.ReadMemStats(&before)
	body := io.MultiReader(bytes.NewReader(framed(encode(t, f))), io.LimitReader(zeros{}, 300<<20))
	if status, b := do(t, c, "PUT", "/v1/functions/"+f.ID, body); status != 201 {
		t.Fatalf("%d %s", status, b)
	}
	resp, err := c.Get("http://host/v1/functions/" + f.ID)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	if n, err := io.Copy(io.Discard, resp.Body); err != nil || n < 300<<20 {
		t.Fatalf("%d bytes, %v", n, err)
	}
	runtime.ReadMemStats(&now)
	if grown := int64(now.TotalAlloc - before.TotalAlloc); grown > 16<<20 {
		t.Errorf("%d bytes were allocated for two bodies of 300 MiB", grown)
	}
}

func TestKeysTravel(t *testing.T) {
	c := storeClient(t)
	k := wire.StoredKey{Owner: wire.Subject{Iss: "https://issuer/?x&y", Sub: "alice|1"}, Username: "alice", Wrapped: []byte("first"), KEK: "arn:kek"}
	second := k
	second.Wrapped = []byte("second")
	for _, v := range []struct {
		put    wire.StoredKey
		status int
	}{{k, 201}, {second, 200}} {
		status, b := do(t, c, "PUT", "/v1/keys", bytes.NewReader(encode(t, v.put)))
		if status != v.status || !bytes.Equal(b, encode(t, k)) {
			t.Errorf("%d %q", status, b)
		}
	}
	for _, path := range []string{"/v1/keys?iss=https%3A%2F%2Fissuer%2F%3Fx%26y&sub=alice%7C1", "/v1/users/alice/key"} {
		status, b := do(t, c, "GET", path, nil)
		var got wire.StoredKey
		if err := wire.Unmarshal(b, wire.MaxRecord, &got); status != 200 || err != nil {
			t.Errorf("%s: %d, %v", path, status, err)
		}
		if d := cmp.Diff(k, got); d != "" {
			t.Errorf("%s: %s", path, d)
		}
	}
	ofAccount := k
	ofAccount.Acct, ofAccount.Wrapped = bytes.Repeat([]byte{0xab}, 32), []byte("account's")
	if status, _ := do(t, c, "PUT", "/v1/keys", bytes.NewReader(encode(t, ofAccount))); status != 201 {
		t.Errorf("an account's key: %d", status)
	}
	hexAcct := strings.Repeat("ab", 32)
	for path, want := range map[string]wire.StoredKey{"/v1/keys?acct=" + hexAcct: ofAccount, "/v1/users/alice/key?account=1": ofAccount, "/v1/users/alice/key": k} {
		if status, b := do(t, c, "GET", path, nil); status != 200 || !bytes.Equal(b, encode(t, want)) {
			t.Errorf("%s: %d", path, status)
		}
	}
	for _, path := range []string{"/v1/keys", "/v1/keys?iss=x&sub=alice%7C1", "/v1/users/bob/key", "/v1/users/bob/key?account=1",
		"/v1/keys?acct=", "/v1/keys?acct=" + hexAcct[2:], "/v1/keys?acct=" + strings.Repeat("ac", 32), "/v1/keys?acct=" + strings.Repeat("zz", 32)} {
		if status, b := do(t, c, "GET", path, nil); status != 404 || code(t, b) != wire.CodeNotFound {
			t.Errorf("%s: %d %s", path, status, b)
		}
	}
	for name, body := range map[string][]byte{"empty": nil, "garbage": []byte("x"), "long": make([]byte, wire.MaxRecord+2), "no ciphertext": encode(t, wire.StoredKey{Owner: k.Owner, KEK: "k"})} {
		if status, b := do(t, c, "PUT", "/v1/keys", bytes.NewReader(body)); status != 400 || code(t, b) != wire.CodeInvalidRequest {
			t.Errorf("%s: %d %s", name, status, b)
		}
	}
}

func TestKeySet(t *testing.T) {
	c := storeClient(t)
	if status, b := do(t, c, "GET", "/v1/jwks?iss=issuer", nil); status != 200 || string(b) != "a.b.c" {
		t.Errorf("%d %q", status, b)
	}
	if status, b := do(t, c, "GET", "/v1/jwks?iss=other", nil); status != 404 || code(t, b) != wire.CodeNotFound {
		t.Errorf("%d %s", status, b)
	}
}

func TestBoot(t *testing.T) {
	message := wire.Boot{Mode: wire.ModeKMSInit, Config: []byte("config"), Routes: map[string]uint32{"a:1": 8000}}
	get := func(context.Context) (wire.Boot, error) { return message, nil }
	birth := wire.Birth{KMS: "arn:aws:kms:x", Policy: []byte("policy"), Document: []byte("document")}
	var born wire.Birth
	keep := func(_ context.Context, b wire.Birth) error { born = b; return nil }
	c := client(t, Boot{Message: get, Born: keep}.Handler())
	if status, b := do(t, c, "GET", "/v1/boot", nil); status != 200 || !bytes.Equal(b, encode(t, message)) {
		t.Errorf("%d %q", status, b)
	}
	for name, body := range map[string][]byte{
		"garbage": []byte("x"), "long": make([]byte, maxBirth+2), "no ARN": encode(t, wire.Birth{KMS: "x", Policy: []byte("p"), Document: []byte("d")}),
		"no policy": encode(t, wire.Birth{KMS: "arn:x", Document: []byte("d")}), "no document": encode(t, wire.Birth{KMS: "arn:x", Policy: []byte("p")}),
	} {
		if status, b := do(t, c, "POST", "/v1/birth", bytes.NewReader(body)); status != 400 || code(t, b) != wire.CodeInvalidRequest || born.KMS != "" {
			t.Errorf("%s: %d %s", name, status, b)
		}
	}
	if status, b := do(t, c, "POST", "/v1/birth", bytes.NewReader(encode(t, birth))); status != 204 {
		t.Errorf("%d %s", status, b)
	}
	if d := cmp.Diff(birth, born); d != "" {
		t.Error(d)
	}
	serving := client(t, Boot{Message: get}.Handler())
	if status, b := do(t, serving, "POST", "/v1/birth", bytes.NewReader(encode(t, birth))); status != 400 || code(t, b) != wire.CodeInvalidRequest {
		t.Errorf("a birth that nobody asked for: %d %s", status, b)
	}
	broken := client(t, Boot{
		Message: func(context.Context) (wire.Boot, error) { return wire.Boot{}, io.ErrUnexpectedEOF },
		Born:    func(context.Context, wire.Birth) error { return io.ErrUnexpectedEOF },
	}.Handler())
	if status, _ := do(t, broken, "GET", "/v1/boot", nil); status != 503 {
		t.Errorf("no message: %d", status)
	}
	if status, _ := do(t, broken, "POST", "/v1/birth", bytes.NewReader(encode(t, birth))); status != 503 {
		t.Errorf("not kept: %d", status)
	}
}

func TestCertificate(t *testing.T) {
	var got []byte
	answer, failure := []byte("chain"), error(nil)
	c := client(t, Boot{Certify: func(_ context.Context, csr []byte) ([]byte, error) { got = csr; return answer, failure }}.Handler())
	if status, b := do(t, c, "POST", "/v1/certificate", strings.NewReader("csr")); status != 200 || string(b) != "chain" || string(got) != "csr" {
		t.Errorf("%d %q, request %q", status, b, got)
	}
	got = nil
	if status, b := do(t, c, "POST", "/v1/certificate", bytes.NewReader(make([]byte, wire.MaxCSR+1))); status != 400 || code(t, b) != wire.CodeInvalidRequest || got != nil {
		t.Errorf("a long request: %d %s", status, b)
	}
	answer = make([]byte, wire.MaxCertificates+1)
	if status, _ := do(t, c, "POST", "/v1/certificate", strings.NewReader("csr")); status != 503 {
		t.Errorf("a long chain: %d", status)
	}
	failure = io.ErrUnexpectedEOF
	if status, b := do(t, c, "POST", "/v1/certificate", strings.NewReader("csr")); status != 503 || code(t, b) != wire.CodeUnavailable {
		t.Errorf("no certificate: %d %s", status, b)
	}
	without := client(t, Boot{}.Handler())
	if status, b := do(t, without, "POST", "/v1/certificate", strings.NewReader("csr")); status != 404 || code(t, b) != wire.CodeNotFound {
		t.Errorf("without TLS: %d %s", status, b)
	}
}

func TestCredentials(t *testing.T) {
	want := wire.Credentials{AccessKeyID: "AKID", SecretAccessKey: "very secret", Token: "T", Expiration: "2030-01-01T00:00:00Z"}
	c := client(t, Credentials(func(context.Context) (wire.Credentials, error) { return want, nil }))
	status, b := do(t, c, "GET", "/v1/credentials", nil)
	var got wire.Credentials
	if err := json.Unmarshal(b, &got); err != nil || status != 200 || got != want {
		t.Errorf("%d %+v %v", status, got, err)
	}
	c = client(t, Credentials(func(context.Context) (wire.Credentials, error) { return want, io.EOF }))
	if status, b := do(t, c, "GET", "/v1/credentials", nil); status != 503 || strings.Contains(string(b), want.SecretAccessKey) {
		t.Errorf("%d %s", status, b)
	}
}

func TestServerEnds(t *testing.T) {
	s := NewServer(http.NotFoundHandler(), quiet)
	handled := make(chan struct{})
	here, there := net.Pipe()
	go func() { s.Handle(there); close(handled) }()
	if _, err := io.WriteString(here, "GET / HTTP/1.1\r\nHost: h\r\n\r\n"); err != nil {
		t.Fatal(err)
	}
	if _, err := here.Read(make([]byte, 12)); err != nil {
		t.Fatal(err)
	}
	go io.Copy(io.Discard, here)
	s.Close()
	<-handled
	here, there = net.Pipe()
	go s.Handle(there)
	if _, err := here.Read(make([]byte, 1)); err == nil {
		t.Error("a closed server serves")
	}
}

func TestTooManyConnections(t *testing.T) {
	s := NewServer(http.NotFoundHandler(), quiet)
	defer s.Close()
	for range maxConns {
		_, there := net.Pipe()
		go s.Handle(there)
	}
	for range 200 {
		if len(s.slots) == maxConns {
			break
		}
		time.Sleep(10 * time.Millisecond)
	}
	here, there := net.Pipe()
	go s.Handle(there)
	here.SetDeadline(time.Now().Add(5 * time.Second))
	if _, err := here.Read(make([]byte, 1)); !errors.Is(err, io.EOF) {
		t.Errorf("a connection too many is not closed: %v", err)
	}
}

// A sender that stops in the middle is let go, and leaves nothing.
func TestStalledSender(t *testing.T) {
	c := client(t, Store{Records: newStore(t), Log: quiet, stall: 50 * time.Millisecond}.Handler())
	f := function(t, "echo")
	r, w := io.Pipe()
	defer w.Close()
	go w.Write(append(framed(encode(t, f)), "half"...))
	req, err := http.NewRequestWithContext(t.Context(), "PUT", "http://host/v1/functions/"+f.ID, r)
	if err != nil {
		t.Fatal(err)
	}
	if resp, err := c.Do(req); err == nil {
		resp.Body.Close()
		if resp.StatusCode < 400 {
			t.Errorf("status %d", resp.StatusCode)
		}
	}
	if status, _ := do(t, c, "GET", "/v1/functions/"+f.ID, nil); status != 404 {
		t.Errorf("half a function is there: %d", status)
	}
}

func FuzzReadHead(f *testing.F) {
	f.Add([]byte{})
	f.Add([]byte{0, 0, 0, 0})
	f.Add([]byte{255, 255, 255, 255})
	f.Add([]byte{0, 0, 0, 1, 0xa0})
	if good, err := wire.Marshal(wire.StoredFunction{ID: "x", Manifest: []byte("m"), Wrapped: []byte("w"), KEK: "k", Size: 1}); err == nil {
		f.Add(framed(good))
		f.Add(framed(append(good, 0)))
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		head, err := readHead(bytes.NewReader(data))
		if err != nil {
			if !errors.Is(err, store.ErrInvalid) {
				t.Error(err)
			}
			return
		}
		again, err := wire.Marshal(head)
		if err != nil || !bytes.HasPrefix(data, framed(again)) {
			t.Errorf("read as something else: %v", err)
		}
	})
}
