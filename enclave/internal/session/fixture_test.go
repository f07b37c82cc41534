package session_test

import (
	"archive/zip"
	"bytes"
	"context"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"encoding/json"
	"errors"
	"io"
	"log/slog"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/coder/websocket"

	"github.com/cape-functions/cape/core/attest/nitro"
	"github.com/cape-functions/cape/core/seal"
	"github.com/cape-functions/cape/core/wire"
	"github.com/cape-functions/cape/enclave/internal/boot/event"
	"github.com/cape-functions/cape/enclave/internal/handler"
	"github.com/cape-functions/cape/enclave/internal/intake"
	"github.com/cape-functions/cape/enclave/internal/nsm"
	nsmkit "github.com/cape-functions/cape/enclave/internal/nsm/testkit"
	"github.com/cape-functions/cape/enclave/internal/session"
	"github.com/cape-functions/cape/enclave/internal/token"
	"github.com/cape-functions/cape/enclave/internal/vault"
	vaultkit "github.com/cape-functions/cape/enclave/internal/vault/testkit"
)

const kek = "arn:aws:kms:us-east-1:000000000000:key/00000000-0000-4000-8000-000000000000"

func alice() wire.Subject { return wire.Subject{Iss: "cape-dev-1", Sub: "alice|1"} }
func bob() wire.Subject   { return wire.Subject{Iss: "cape-dev-1", Sub: "bob|2"} }

// tokens accepts fixed tokens.
type tokens map[string]*token.Claims

func (t tokens) Verify(_ context.Context, raw string) (*token.Claims, error) {
	switch raw {
	case "expired":
		return nil, token.ErrExpired
	case "no-keys":
		return nil, token.ErrUnavailable
	case "panic":
		panic("secret " + raw)
	}
	if c, ok := t[raw]; ok {
		return c, nil
	}
	return nil, token.ErrSignature
}

// functions plays handlers in this process.
type functions struct {
	mu      sync.Mutex
	handle  func(ctx context.Context, p *process, input []byte) ([]byte, error)
	check   func(zip []byte) error
	starts  atomic.Int64
	running atomic.Int64
	last    handler.Options
}

func (f *functions) Start(_ context.Context, o handler.Options) (session.Process, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.last = o
	f.starts.Add(1)
	f.running.Add(1)
	return &process{f: f, rpc: o.RPC}, nil
}

func (f *functions) Check(_ context.Context, z io.ReaderAt, size int64) error {
	data := make([]byte, size)
	if _, err := z.ReadAt(data, 0); err != nil && !errors.Is(err, io.EOF) {
		return err
	}
	if f.check != nil {
		return f.check(data)
	}
	return nil
}

type process struct {
	f     *functions
	rpc   func(context.Context, string, []byte) ([]byte, error)
	calls int
	once  sync.Once
}

func (p *process) Invoke(ctx context.Context, input io.Reader, output io.Writer) error {
	data, err := io.ReadAll(input)
	if err != nil {
		return err
	}
	p.calls++
	out, err := p.f.handle(ctx, p, data)
	if err != nil {
		return err
	}
	_, err = output.Write(out)
	return err
}

func (p *process) Close() error {
	p.once.Do(func() { p.f.running.Add(-1) })
	return nil
}

func echo(_ context.Context, _ *process, input []byte) ([]byte, error) { return input, nil }

type fixture struct {
	t         *testing.T
	host      *vaultkit.Host
	keys      *vaultkit.Keys
	module    *nsmkit.Module
	functions *functions
	tokens    tokens
	server    *session.Server
	addr      string
	stop      context.CancelFunc
	served    chan error
	logs      *syncBuffer
	policy    []byte
}

type syncBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (s *syncBuffer) Write(p []byte) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.b.Write(p)
}

func (s *syncBuffer) String() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.b.String()
}

var signingKey = sync.OnceValue(func() *rsa.PrivateKey {
	k, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		panic(err)
	}
	return k
})

// setup serves on a port of its own.
func setup(t *testing.T, change ...func(*session.Config)) *fixture {
	t.Helper()
	f := &fixture{t: t, host: vaultkit.NewHost(), keys: vaultkit.NewKeys(), functions: &functions{handle: echo},
		module: nsmkit.New("session", time.Now), logs: &syncBuffer{}, policy: []byte(`{"policy":1}`), served: make(chan error, 1)}
	t.Cleanup(f.host.Close)
	f.tokens = tokens{
		"alice":   {Subject: alice(), Username: "alice"},
		"bob":     {Subject: bob(), Username: "bob"},
		"unnamed": {Subject: wire.Subject{Iss: "cape-dev-1", Sub: "x"}},
		"scoped":  {Subject: alice(), Username: "alice", FunctionID: "23456789ABCDEFGHJKLMNP"},
	}
	limits := wire.DefaultLimits()
	limits.Input, limits.Output, limits.Zip = 1<<20, 2<<20, 1<<20
	v, err := vault.New(vault.Config{Dial: f.host.Dial, Keys: f.keys, KEK: kek, Scratch: t.TempDir(), Limits: limits, Unpack: unpack})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(v.Close)
	cfg := session.Config{NSM: nsm.New(f.module), Tokens: f.tokens, Vault: v, Functions: f.functions, SigningKey: signingKey(),
		Limits: limits, Log: event.New(f.logs), Timeouts: session.Timeouts{Tick: 5 * time.Millisecond, Linger: 200 * time.Millisecond}}
	for _, c := range change {
		c(&cfg)
	}
	f.server = session.New(cfg)
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	f.addr = l.Addr().String()
	ctx, cancel := context.WithCancel(context.Background())
	f.stop = cancel
	go func() { f.served <- f.server.Serve(ctx, l, 2*time.Second) }()
	t.Cleanup(func() {
		cancel()
		if err := <-f.served; err != nil {
			t.Errorf("serving: %v", err)
		}
		f.served <- nil
	})
	f.server.Open(f.policy)
	return f
}

func quiet() *slog.Logger { return slog.New(slog.DiscardHandler) }

// unpack writes the zip itself; handlers of these tests look at no files.
func unpack(_ context.Context, z io.ReaderAt, size int64, dir string) (*intake.Layout, error) {
	data := make([]byte, size)
	if _, err := z.ReadAt(data, 0); err != nil && !errors.Is(err, io.EOF) {
		return nil, err
	}
	return &intake.Layout{Work: ".", Files: 1, Bytes: size}, os.WriteFile(filepath.Join(dir, "zip"), data, 0o444)
}

func zipOf(t testing.TB, name, source string) []byte {
	t.Helper()
	var b bytes.Buffer
	w := zip.NewWriter(&b)
	f, err := w.Create(name)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := f.Write([]byte(source)); err != nil {
		t.Fatal(err)
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

// conn is a client of v1.
type conn struct {
	t  *testing.T
	ws *websocket.Conn
	// of the document
	doc    nitro.Document
	user   wire.UserDataV1
	signer []byte
}

// dial opens a session, or returns the refusal.
func (f *fixture) dial(route string, protocols ...string) (*conn, *http.Response, wire.ErrorBody) {
	f.t.Helper()
	ws, resp, err := websocket.Dial(f.t.Context(), "ws://"+f.addr+route, &websocket.DialOptions{Subprotocols: protocols})
	if err != nil {
		var body wire.ErrorBody
		if resp != nil {
			_ = json.NewDecoder(resp.Body).Decode(&body)
		}
		return nil, resp, body
	}
	ws.SetReadLimit(-1)
	f.t.Cleanup(func() { ws.CloseNow() })
	return &conn{t: f.t, ws: ws}, resp, wire.ErrorBody{}
}

// enter opens a session and reads the document.
func (f *fixture) enter(route, token string) *conn {
	f.t.Helper()
	c, _, body := f.dial(route, wire.SubprotocolRuntime, token)
	if c == nil {
		f.t.Fatalf("refused: %+v", body)
	}
	c.introduce([]byte("0123456789abcdef"))
	return c
}

func (c *conn) introduce(nonce []byte) {
	c.t.Helper()
	c.send(wire.StartV1{Nonce: nonce})
	var a wire.AttestationV1
	c.receive(&a)
	s, err := nitro.Parse(a.Message)
	if err != nil {
		c.t.Fatal(err)
	}
	c.doc = s.Document
	if !bytes.Equal(c.doc.Nonce, nonce) {
		c.t.Fatalf("nonce %q", c.doc.Nonce)
	}
	if err := json.Unmarshal(c.doc.UserData, &c.user); err != nil {
		c.t.Fatal(err)
	}
}

func (c *conn) send(v any) {
	c.t.Helper()
	frame, err := wire.EncodeV1(v)
	if err != nil {
		c.t.Fatal(err)
	}
	c.write(websocket.MessageText, frame)
}

func (c *conn) write(typ websocket.MessageType, frame []byte) {
	c.t.Helper()
	if err := c.ws.Write(c.t.Context(), typ, frame); err != nil {
		c.t.Fatal(err)
	}
}

func (c *conn) seal(plain []byte) {
	c.t.Helper()
	frame, err := seal.SealV1(c.doc.PublicKey, plain)
	if err != nil {
		c.t.Fatal(err)
	}
	c.write(websocket.MessageBinary, frame)
}

// read returns the next message, or the enclave's error.
func (c *conn) read(v any) error {
	c.t.Helper()
	typ, frame, err := c.ws.Read(c.t.Context())
	if err != nil {
		return err
	}
	if typ != websocket.MessageText {
		c.t.Fatal("a binary frame came")
	}
	return wire.DecodeV1(frame, v)
}

func (c *conn) receive(v any) {
	c.t.Helper()
	if err := c.read(v); err != nil {
		c.t.Fatal(err)
	}
}

// result reads a result and checks its checksums and their signature.
func (c *conn) result(input []byte) []byte {
	c.t.Helper()
	var r wire.ResultV1
	c.receive(&r)
	return c.check(r, input)
}

// refused reads an error of that code.
func (c *conn) refused(code string) *wire.RemoteError {
	c.t.Helper()
	var v json.RawMessage
	err := c.read(&v)
	var remote *wire.RemoteError
	if !errors.As(err, &remote) {
		c.t.Fatalf("got %v %s, want the error %s", err, v, code)
	}
	if remote.Code != code {
		c.t.Fatalf("got %s: %s, want %s", remote.Code, remote.Text, code)
	}
	return remote
}

// closed waits for the end of the connection and returns the code it was closed with.
func (c *conn) closed() websocket.StatusCode {
	c.t.Helper()
	for {
		if _, _, err := c.ws.Read(c.t.Context()); err != nil {
			return websocket.CloseStatus(err)
		}
	}
}

// capeKey fetches the public key of a token's user.
func (f *fixture) capeKey(token string) *rsa.PublicKey {
	f.t.Helper()
	c := f.enter("/v1/key", token)
	key, err := x509.ParsePKIXPublicKey(c.user.Key)
	if err != nil {
		f.t.Fatal(err)
	}
	pub, ok := key.(*rsa.PublicKey)
	if !ok {
		f.t.Fatal("not an RSA key")
	}
	if code := c.closed(); code != websocket.StatusNormalClosure {
		f.t.Errorf("closed with %d", code)
	}
	return pub
}
