package boot_test

import (
	"bytes"
	"crypto/ed25519"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"encoding/json"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/go-jose/go-jose/v4"
	"github.com/go-jose/go-jose/v4/jwt"

	"github.com/cape-functions/cape/core/wire"
	kmskit "github.com/cape-functions/cape/enclave/internal/keyring/testkit"
	vaultkit "github.com/cape-functions/cape/enclave/internal/vault/testkit"
	"github.com/cape-functions/cape/vsock"
)

const (
	issuer     = "cape-dev-1"
	awsAccount = "111122223333"
	role       = "arn:aws:iam::111122223333:role/cape"
	identity   = "arn:aws:sts::111122223333:assumed-role/cape/session"
)

// world is everything around a runtime: a host with its links, a KMS, an issuer.
type world struct {
	t      testing.TB
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
	// certify answers a certificate request; nil: there is no such route.
	certify func(rw http.ResponseWriter, csr []byte)
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

func newWorld(t testing.TB) *world {
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
	w := &world{t: t, dir: dir, net: vsock.Unix(dir, false), kms: kmskit.New(awsAccount, "us-east-1", identity), store: vaultkit.NewHost(), logs: &syncBuffer{}}
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
	mux.HandleFunc("POST /v1/certificate", func(rw http.ResponseWriter, r *http.Request) {
		csr, err := io.ReadAll(r.Body)
		if err != nil {
			w.t.Error(err)
		}
		w.mu.Lock()
		defer w.mu.Unlock()
		if w.certify == nil {
			http.NotFound(rw, r)
			return
		}
		w.certify(rw, csr)
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
