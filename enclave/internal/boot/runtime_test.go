package boot_test

import (
	"archive/zip"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"github.com/coder/websocket"

	"github.com/cape-functions/cape/core/attest/nitro"
	attestkit "github.com/cape-functions/cape/core/attest/testkit"
	"github.com/cape-functions/cape/core/seal"
	"github.com/cape-functions/cape/core/wire"
	"github.com/cape-functions/cape/enclave/internal/boot"
	"github.com/cape-functions/cape/enclave/internal/nsm"
	nsmkit "github.com/cape-functions/cape/enclave/internal/nsm/testkit"
	"github.com/cape-functions/cape/vsock"
)

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
