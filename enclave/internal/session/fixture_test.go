package session_test

import (
	"archive/zip"
	"bytes"
	"context"
	"crypto/rand"
	"crypto/rsa"
	"errors"
	"io"
	"net"
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/cape-functions/cape/core/account"
	sealkit "github.com/cape-functions/cape/core/seal/testkit"
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
	return &process{f: f, rpc: o.RPC, stdout: o.Stdout, stderr: o.Stderr}, nil
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

	stdout, stderr io.Writer // nil: nobody looks on
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
	enclave   *sealkit.Enclave // whose configuration, policy and birth document are used
	alice     *account.Key
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

var playedEnclave = sync.OnceValue(func() *sealkit.Enclave { return sealkit.NewEnclave(time.Now()) })

func newAccount(t *testing.T) *account.Key {
	t.Helper()
	k, err := account.New()
	if err != nil {
		t.Fatal(err)
	}
	return k
}

// setup serves on a port of its own.
func setup(t *testing.T, change ...func(*session.Config)) *fixture {
	t.Helper()
	f := &fixture{t: t, host: vaultkit.NewHost(), keys: vaultkit.NewKeys(), functions: &functions{handle: echo},
		module: nsmkit.New("session", time.Now), logs: &syncBuffer{}, served: make(chan error, 1),
		enclave: playedEnclave(), alice: newAccount(t)}
	f.policy, f.module.Authority = f.enclave.Policy, f.enclave.Authority
	for i, value := range f.enclave.PCRs {
		f.module.Set(i, value)
	}
	f.module.Lock(wire.TrustPCR)
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
	cfg := session.Config{ReceiptKey: f.enclave.ReceiptKey, Now: time.Now, Config: f.enclave.Config, Birth: f.enclave.Birth,
		Python: "3.11", Platform: "linux-x86_64", NSM: nsm.New(f.module), Tokens: f.tokens, Vault: v, Functions: f.functions,
		SigningKey: func() (*rsa.PrivateKey, error) { return signingKey(), nil },
		Limits:     limits, Log: event.New(f.logs), Timeouts: session.Timeouts{Tick: 5 * time.Millisecond, Linger: 200 * time.Millisecond}}
	for _, c := range change {
		c(&cfg)
	}
	if f.server, err = session.New(cfg); err != nil {
		t.Fatal(err)
	}
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

// unpack writes the zip itself; handlers of these tests look at no files.
func unpack(_ context.Context, z io.ReaderAt, size int64, dir string, admit func(int64) error) (*intake.Layout, error) {
	if err := admit(size); err != nil {
		return nil, err
	}
	data := make([]byte, size)
	if _, err := z.ReadAt(data, 0); err != nil && !errors.Is(err, io.EOF) {
		return nil, err
	}
	return &intake.Layout{Work: ".", Files: 1, Bytes: size, Room: size}, os.WriteFile(filepath.Join(dir, "zip"), data, 0o444)
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
