package boot_test

import (
	"archive/zip"
	"bytes"
	"context"
	"crypto/ed25519"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"encoding/json"
	"errors"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/coder/websocket"
	"github.com/go-jose/go-jose/v4"
	"github.com/go-jose/go-jose/v4/jwt"

	"github.com/cape-functions/cape/core/attest/nitro"
	attestkit "github.com/cape-functions/cape/core/attest/testkit"
	"github.com/cape-functions/cape/core/seal"
	"github.com/cape-functions/cape/core/wire"
	"github.com/cape-functions/cape/enclave/internal/boot"
	kmskit "github.com/cape-functions/cape/enclave/internal/keyring/testkit"
	"github.com/cape-functions/cape/enclave/internal/nsm"
	nsmkit "github.com/cape-functions/cape/enclave/internal/nsm/testkit"
	"github.com/cape-functions/cape/enclave/internal/sandbox"
	vaultkit "github.com/cape-functions/cape/enclave/internal/vault/testkit"
	"github.com/cape-functions/cape/vsock"
)

const (
	issuer   = "cape-dev-1"
	account  = "111122223333"
	role     = "arn:aws:iam::111122223333:role/cape"
	identity = "arn:aws:sts::111122223333:assumed-role/cape/session"
)

func TestMain(m *testing.M) {
	sandbox.MaybeInit()
	os.Exit(m.Run())
}

// world is everything around a runtime: a host with its links, a KMS, an issuer.
type world struct {
	t      *testing.T
	dir    string
	net    vsock.Network // the host's side
	kms    *kmskit.KMS
	store  *vaultkit.Host
	user   *rsa.PrivateKey
	signer ed25519.PrivateKey
	cfg    wire.Config
	logs   *syncBuffer

	mu    sync.Mutex
	boot  wire.Boot
	birth *wire.Birth
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

var capePair = sync.OnceValue(func() []byte {
	k, err := rsa.GenerateKey(rand.Reader, 4096)
	if err != nil {
		panic(err)
	}
	der, err := x509.MarshalPKCS8PrivateKey(k)
	if err != nil {
		panic(err)
	}
	return der
})

func newWorld(t *testing.T) *world {
	t.Helper()
	dir, err := os.MkdirTemp("", "cape") // socket paths are short
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	for _, d := range []string{"host", "enclave"} {
		if err := os.Mkdir(filepath.Join(dir, d), 0o700); err != nil {
			t.Fatal(err)
		}
	}
	w := &world{t: t, dir: dir, net: vsock.Unix(dir, false), kms: kmskit.New(account, "us-east-1", identity), store: vaultkit.NewHost(), logs: &syncBuffer{}}
	t.Cleanup(w.kms.Close)
	t.Cleanup(w.store.Close)
	w.kms.Pair = capePair()
	if w.user, err = rsa.GenerateKey(rand.Reader, 2048); err != nil {
		t.Fatal(err)
	}
	if _, w.signer, err = ed25519.GenerateKey(rand.Reader); err != nil {
		t.Fatal(err)
	}
	w.cfg = wire.Config{Trust: wire.Trust{Issuers: []wire.Issuer{{Iss: issuer, Signer: w.signer.Public().(ed25519.PublicKey)}}, Role: role}, Limits: wire.DefaultLimits()}
	w.cfg.Limits.CallMS = 2000
	w.publishKeys()
	w.links()
	return w
}

func (w *world) publishKeys() {
	w.t.Helper()
	s, err := jose.NewSigner(jose.SigningKey{Algorithm: jose.EdDSA, Key: w.signer}, &jose.SignerOptions{ExtraHeaders: map[jose.HeaderKey]any{"typ": "cape-jwks"}})
	if err != nil {
		w.t.Fatal(err)
	}
	body, err := json.Marshal(map[string]any{"iss": issuer, "exp": time.Now().Add(time.Hour).Unix(),
		"keys": []jose.JSONWebKey{{Key: w.user.Public(), KeyID: "k"}}})
	if err != nil {
		w.t.Fatal(err)
	}
	jws, err := s.Sign(body)
	if err != nil {
		w.t.Fatal(err)
	}
	raw, err := jws.CompactSerialize()
	if err != nil {
		w.t.Fatal(err)
	}
	w.store.KeySets[issuer] = []byte(raw)
}

func (w *world) token(change map[string]any) string {
	w.t.Helper()
	s, err := jose.NewSigner(jose.SigningKey{Algorithm: jose.RS256, Key: w.user}, &jose.SignerOptions{ExtraHeaders: map[jose.HeaderKey]any{"kid": "k"}})
	if err != nil {
		w.t.Fatal(err)
	}
	claims := map[string]any{"iss": issuer, "sub": "dev|1", "aud": wire.Audience, "exp": time.Now().Add(time.Hour).Unix(), wire.ClaimUsername: "dev"}
	for k, v := range change {
		claims[k] = v
	}
	raw, err := jwt.Signed(s).Claims(claims).Serialize()
	if err != nil {
		w.t.Fatal(err)
	}
	return raw
}

// links serves what the host has to.
func (w *world) links() {
	mux := http.NewServeMux()
	mux.HandleFunc("GET /v1/boot", func(rw http.ResponseWriter, _ *http.Request) {
		w.mu.Lock()
		defer w.mu.Unlock()
		data, err := wire.Marshal(w.boot)
		if err != nil {
			w.t.Error(err)
		}
		_, _ = rw.Write(data)
	})
	mux.HandleFunc("POST /v1/birth", func(rw http.ResponseWriter, r *http.Request) {
		data, err := io.ReadAll(r.Body)
		if err != nil {
			w.t.Error(err)
		}
		w.mu.Lock()
		defer w.mu.Unlock()
		w.birth = &wire.Birth{}
		if err := wire.Unmarshal(data, 1<<20, w.birth); err != nil {
			w.t.Error(err)
		}
	})
	w.serve(wire.PortBoot, mux)
	w.serve(wire.PortCredentials, http.HandlerFunc(func(rw http.ResponseWriter, _ *http.Request) {
		_ = json.NewEncoder(rw).Encode(wire.Credentials{AccessKeyID: "AKIAEXAMPLE", SecretAccessKey: "s", Token: "t",
			Expiration: time.Now().Add(time.Hour).UTC().Format(time.RFC3339)})
	}))
	w.serve(wire.PortStore, w.store)
	l, err := w.net.Listen(wire.PortProxyBase)
	if err != nil {
		w.t.Fatal(err)
	}
	w.t.Cleanup(func() { l.Close() })
	go w.proxy(l)
}

func (w *world) serve(port uint32, h http.Handler) {
	w.t.Helper()
	l, err := w.net.Listen(port)
	if err != nil {
		w.t.Fatal(err)
	}
	s := &http.Server{Handler: h, ReadHeaderTimeout: time.Minute}
	go func() { _ = s.Serve(l) }()
	w.t.Cleanup(func() { s.Close() })
}

func (w *world) endpoint() string { return strings.TrimPrefix(w.kms.URL(), "https://") }

func (w *world) proxy(l net.Listener) {
	for {
		in, err := l.Accept()
		if err != nil {
			return
		}
		out, err := net.Dial("tcp", w.endpoint())
		if err != nil {
			in.Close()
			continue
		}
		go func() { _, _ = io.Copy(out, in); out.Close() }()
		go func() { _, _ = io.Copy(in, out); in.Close() }()
	}
}

// message sets what the next runtime boots with.
func (w *world) message(mode string, change ...func(*wire.Boot)) {
	w.t.Helper()
	cfg := w.cfg
	b := wire.Boot{Mode: mode, Routes: map[string]uint32{w.endpoint(): wire.PortProxyBase}}
	if mode == wire.ModeServe {
		cfg.KMS, b.Birth = w.birth.KMS, w.birth.Document
	} else {
		pcr8 := attestkit.PCR(8)
		b.Init = &wire.KEKRequest{Admins: []string{}, PCR0: [][]byte{}, PCR8: [][]byte{pcr8[:]}}
	}
	data, err := wire.Marshal(cfg)
	if err != nil {
		w.t.Fatal(err)
	}
	b.Config = data
	for _, c := range change {
		c(&b)
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	w.boot = b
}

// module is a fresh security module: of the same hypervisor each time.
func module() *nsmkit.Module {
	m := nsmkit.New("boot test", began)
	m.Now = time.Now
	return m
}

var began = sync.OnceValue(time.Now)

func (w *world) parts(m *nsmkit.Module) boot.Parts {
	scratch := filepath.Join(w.dir, "scratch")
	if err := os.MkdirAll(scratch, 0o755); err != nil {
		w.t.Fatal(err)
	}
	return boot.Parts{
		Network: vsock.Unix(w.dir, true),
		NSM:     func(context.Context, vsock.Network) (nsm.Transport, error) { return m, nil },
		Endpoints: func(*wire.DevSettings) (boot.Endpoints, error) {
			return boot.Endpoints{KMS: w.kms.URL(), STS: w.kms.URL(), Region: "us-east-1", AWS: w.kms.Roots(), Issuers: w.kms.Roots()}, nil
		},
		BirthRoots: func(*nsm.Device) ([][]byte, error) { return [][]byte{m.Authority.Root}, nil },
		Python:     "python3", Scratch: scratch, Degraded: true, Log: w.logs,
	}
}

// born creates the KEK.
func (w *world) born() {
	w.t.Helper()
	w.message(wire.ModeKMSInit)
	if err := boot.Run(w.t.Context(), w.parts(module())); err != nil {
		w.t.Fatal(err)
	}
	if w.birth == nil {
		w.t.Fatal("no birth document came")
	}
}

// start runs a serving runtime until the test ends, and returns when it answers.
func (w *world) start() (stop func() error) {
	w.t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{})
	var ended error
	go func() {
		defer close(done)
		ended = boot.Run(ctx, w.parts(module()))
	}()
	stop = func() error {
		cancel()
		<-done
		return ended
	}
	w.t.Cleanup(func() { _ = stop() })
	for end := time.Now().Add(20 * time.Second); ; time.Sleep(10 * time.Millisecond) {
		c, err := w.net.Dial(w.t.Context(), wire.PortSession)
		if err == nil {
			c.Close()
			return stop
		}
		select {
		case <-done:
			w.t.Fatalf("it ended: %v\n%s", ended, w.logs.String())
		default:
		}
		if time.Now().After(end) {
			w.t.Fatalf("it does not answer\n%s", w.logs.String())
		}
	}
}

func (w *world) http() *http.Client {
	return &http.Client{Transport: &http.Transport{DisableKeepAlives: true,
		DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) { return w.net.Dial(ctx, wire.PortSession) }}}
}

// session is a v1 client.
type session struct {
	t    testing.TB
	ws   *websocket.Conn
	doc  nitro.Document
	user wire.UserDataV1
}

func (w *world) session(t testing.TB, route, token string) *session {
	t.Helper()
	ws, _, err := websocket.Dial(t.Context(), "ws://enclave"+route, &websocket.DialOptions{HTTPClient: w.http(), Subprotocols: []string{wire.SubprotocolRuntime, token}})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { ws.CloseNow() })
	ws.SetReadLimit(-1)
	s := &session{t: t, ws: ws}
	s.send(wire.StartV1{Nonce: []byte("0123456789abcdef")})
	var a wire.AttestationV1
	if err := s.receive(&a); err != nil {
		t.Fatal(err)
	}
	parsed, err := nitro.Parse(a.Message)
	if err != nil {
		t.Fatal(err)
	}
	s.doc = parsed.Document
	if err := json.Unmarshal(s.doc.UserData, &s.user); err != nil {
		t.Fatal(err)
	}
	return s
}

func (s *session) send(v any) {
	s.t.Helper()
	frame, err := wire.EncodeV1(v)
	if err == nil {
		err = s.ws.Write(s.t.Context(), websocket.MessageText, frame)
	}
	if err != nil {
		s.t.Fatal(err)
	}
}

func (s *session) binary(b []byte) {
	s.t.Helper()
	if err := s.ws.Write(s.t.Context(), websocket.MessageBinary, b); err != nil {
		s.t.Fatal(err)
	}
}

func (s *session) receive(v any) error {
	_, frame, err := s.ws.Read(s.t.Context())
	if err != nil {
		return err
	}
	return wire.DecodeV1(frame, v)
}

// invoke returns the output, or the error's code and text.
func (s *session) invoke(input []byte) (string, *wire.RemoteError) {
	s.t.Helper()
	frame, err := seal.SealV1(s.doc.PublicKey, input)
	if err != nil {
		s.t.Fatal(err)
	}
	s.binary(frame)
	var r wire.ResultV1
	err = s.receive(&r)
	var remote *wire.RemoteError
	if errors.As(err, &remote) {
		return "", remote
	}
	if err != nil {
		s.t.Fatal(err)
	}
	sums := seal.Checksums{Input: [32]byte(r.Checksums.Input), Function: [32]byte(r.Checksums.Function), Output: [32]byte(r.Checksums.Output)}
	if err := seal.VerifyChecksums(s.user.SignatureKey, sums, r.SignedChecksums); err != nil {
		s.t.Error(err)
	}
	return string(r.Message), nil
}

func zipOf(t testing.TB, files map[string]string) []byte {
	t.Helper()
	var b bytes.Buffer
	w := zip.NewWriter(&b)
	for name, text := range files {
		f, err := w.Create(name)
		if err == nil {
			_, err = f.Write([]byte(text))
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}
