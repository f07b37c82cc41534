//go:build image

// Package image boots the production image as QEMU's nitro-enclave machine, which measures it and has a real security module but
// for the signatures. make image-test runs it; it needs the images and tools/vm-tools.sh --nitro.
package image

import (
	"context"
	"crypto/ed25519"
	"errors"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"github.com/coder/websocket"
	"github.com/fxamacker/cbor/v2"

	"github.com/cape-functions/cape/client"
	"github.com/cape-functions/cape/client/trust"
	"github.com/cape-functions/cape/core/attest"
	"github.com/cape-functions/cape/core/attest/chain"
	"github.com/cape-functions/cape/core/attest/nitro"
	"github.com/cape-functions/cape/core/attest/policy"
	"github.com/cape-functions/cape/core/attest/testkit"
	"github.com/cape-functions/cape/core/seal"
	"github.com/cape-functions/cape/core/wire"
	"github.com/cape-functions/cape/image/eif"
)

const (
	// bootWithin bounds everything from power on to the document, on a busy machine without KVM.
	bootWithin = 3 * time.Minute
	function   = "23456789ABCDEFGHJKLMNP"
	route      = "/v1/run/" + function
)

// configuration is one that the runtime takes. There is no such key: the runtime cannot inspect it, and serves nothing.
func configuration(t *testing.T) (*wire.Config, []byte) {
	t.Helper()
	signer := ed25519.NewKeyFromSeed(make([]byte, ed25519.SeedSize)).Public().(ed25519.PublicKey)
	cfg := &wire.Config{
		Trust:  wire.Trust{Issuers: []wire.Issuer{{Iss: "https://issuer.example", Signer: signer}}, Role: "arn:aws:iam::000000000000:role/none"},
		KMS:    "arn:aws:kms:us-east-1:000000000000:key/00000000-0000-4000-8000-000000000000",
		Limits: wire.DefaultLimits(),
	}
	raw, err := wire.Marshal(cfg)
	if err != nil {
		t.Fatal(err)
	}
	return cfg, raw
}

// services are the parent's ports: a boot message, and credentials of nobody.
func services(t *testing.T, config []byte) map[uint32]func(net.Conn) {
	t.Helper()
	message, err := wire.Marshal(wire.Boot{Mode: wire.ModeServe, Config: config, Birth: []byte{0}, Routes: map[string]uint32{}})
	if err != nil {
		t.Fatal(err)
	}
	answer := func(path string, body []byte) func(net.Conn) {
		mux := http.NewServeMux()
		mux.HandleFunc("GET "+path, func(w http.ResponseWriter, _ *http.Request) { _, _ = w.Write(body) })
		return func(c net.Conn) {
			_ = (&http.Server{Handler: mux, ReadTimeout: bootWithin}).Serve(&single{c: c})
		}
	}
	return map[uint32]func(net.Conn){
		wire.PortBoot:        answer("/v1/boot", message),
		wire.PortCredentials: answer("/v1/credentials", []byte(`{"AccessKeyId":"none","SecretAccessKey":"none","Token":"","Expiration":""}`)),
	}
}

// single is a listener with one connection.
type single struct {
	c    net.Conn
	done bool
}

func (s *single) Accept() (net.Conn, error) {
	if s.done {
		return nil, net.ErrClosed
	}
	s.done = true
	return s.c, nil
}
func (s *single) Close() error   { return nil }
func (s *single) Addr() net.Addr { return s.c.LocalAddr() }

// attestation asks for a document as a client of protocol v2 does.
func (m *machine) attestation(ctx context.Context) (nonce []byte, a *wire.Attest, err error) {
	caller, err := seal.NewCaller(route)
	if err != nil {
		return nil, nil, err
	}
	transport := &http.Transport{DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) { return m.dial(ctx, wire.PortEvidence) }}
	defer transport.CloseIdleConnections()
	ws, _, err := websocket.Dial(ctx, "ws://enclave"+route, &websocket.DialOptions{
		Subprotocols: []string{wire.SubprotocolV2}, HTTPClient: &http.Client{Transport: transport},
	})
	if err != nil {
		return nil, nil, err
	}
	defer ws.CloseNow()
	ws.SetReadLimit(wire.MaxAttest)
	if err := ws.Write(ctx, websocket.MessageBinary, caller.Hello()); err != nil {
		return nil, nil, err
	}
	_, message, err := ws.Read(ctx)
	if err != nil {
		return nil, nil, err
	}
	a, err = caller.Receive(message)
	return caller.Nonce(), a, err
}

// contents are those of a document whose header and signature no client can read: QEMU writes another algorithm, and zeros.
type contents struct {
	ModuleID  string         `cbor:"module_id"`
	Digest    string         `cbor:"digest"`
	Timestamp int64          `cbor:"timestamp"`
	PCRs      map[int][]byte `cbor:"pcrs"`
	PublicKey []byte         `cbor:"public_key"`
	UserData  []byte         `cbor:"user_data"`
	Nonce     []byte         `cbor:"nonce"`
}

func read(t *testing.T, raw []byte) contents {
	t.Helper()
	var sign1 []cbor.RawMessage
	var payload []byte
	var c contents
	if err := cbor.Unmarshal(raw, &sign1); err != nil || len(sign1) != 4 {
		t.Fatalf("%d parts, %v", len(sign1), err)
	}
	if err := errors.Join(cbor.Unmarshal(sign1[2], &payload), cbor.Unmarshal(payload, &c)); err != nil {
		t.Fatal(err)
	}
	return c
}

func measure(t *testing.T, path string) eif.Measurements {
	t.Helper()
	f, err := os.Open(path)
	if err != nil {
		t.Fatalf("%v: make image", err)
	}
	defer f.Close()
	m, err := eif.Measure(t.Context(), f)
	if err != nil {
		t.Fatal(err)
	}
	return m
}

// TestProductionImage boots the image, with nobody behind it who has a key for it.
func TestProductionImage(t *testing.T) {
	path, err := filepath.Abs(filepath.Join("..", "..", "bin", "cape-runtime.eif"))
	if err != nil {
		t.Fatal(err)
	}
	want := measure(t, path)
	cfg, raw := configuration(t)
	ctx, cancel := context.WithTimeout(t.Context(), bootWithin)
	defer cancel()
	began := time.Now()
	m := boot(t, path, services(t, raw))
	defer func() {
		if t.Failed() {
			t.Logf("console:\n%s", m.console)
		}
	}()
	select {
	case b := <-m.beat:
		if b != heartbeat {
			t.Fatalf("heartbeat %#x", b)
		}
		t.Logf("heartbeat after %s", time.Since(began).Round(time.Millisecond))
	case <-m.ended:
		t.Fatal("the machine ended before its heartbeat")
	case <-ctx.Done():
		t.Fatal("no heartbeat")
	}
	nonce, a, err := m.attestation(ctx)
	if err != nil {
		t.Fatal(err)
	}
	t.Logf("document after %s", time.Since(began).Round(time.Millisecond))
	doc := read(t, a.Document)
	checkRegisters(t, doc, want, cfg.Trust)
	checkRefusal(t, a.Document, doc, want, nonce)
	checkClient(ctx, t, m.front(wire.PortEvidence), want)
}

// checkRegisters: the machine measured what cape eif describe says; PCR16 is the trust; all from there on are locked, since a document holds locked registers alone.
func checkRegisters(t *testing.T, doc contents, want eif.Measurements, trust wire.Trust) {
	t.Helper()
	pcr16, err := wire.ExpectedPCR16(trust)
	if err != nil {
		t.Fatal(err)
	}
	expected := map[int]nitro.PCR{0: want.PCR0, 1: want.PCR1, 2: want.PCR2, wire.TrustPCR: pcr16}
	for i := wire.TrustPCR + 1; i < nitro.MaxPCRs; i++ {
		expected[i] = nitro.PCR{}
	}
	for i, value := range expected {
		if got, ok := doc.PCRs[i]; !ok || !slices.Equal(got, value[:]) {
			t.Errorf("PCR%d is %x (there: %v), not %s", i, got, ok, value)
		}
	}
	if want.PCR0 == want.PCR1 || want.PCR1 == want.PCR2 {
		t.Error("registers that say the same")
	}
}

// checkClient: the client refuses, although it was told of this image.
func checkClient(ctx context.Context, t *testing.T, address string, want eif.Measurements) {
	t.Helper()
	c, err := client.New(client.Options{BaseURL: "http://" + address, Token: client.StaticToken("none"), Trust: trust.Policy{
		Roots: [][]byte{chain.AWSRoot()}, PCRs: map[int][]nitro.PCR{0: {want.PCR0}, 1: {want.PCR1}, 2: {want.PCR2}}, KeyPolicyNotChecked: true,
	}})
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	s, err := c.Connect(ctx, client.Function{Name: function})
	if err == nil {
		s.Close()
	}
	if !errors.Is(err, client.ErrAttestation) {
		t.Errorf("the client: %v", err)
	}
}

// checkRefusal: a verifier takes the same contents when they are signed under a root that it trusts, and refuses them as they came.
func checkRefusal(t *testing.T, raw []byte, doc contents, want eif.Measurements, nonce []byte) {
	t.Helper()
	now := time.Now()
	authority := testkit.NewAuthority("image-test", now)
	p := policy.Policy{
		Roots: [][]byte{authority.Root}, Nonce: nonce, RequirePublicKey: true, RequireUserData: true,
		PCRs: map[int][]nitro.PCR{0: {want.PCR0}, 1: {want.PCR1}, 2: {want.PCR2}},
	}
	signed := authority.Document(now)
	signed.ModuleID, signed.Digest, signed.Timestamp, signed.PCRs = doc.ModuleID, doc.Digest, time.UnixMilli(doc.Timestamp), map[int]nitro.PCR{}
	signed.PublicKey, signed.UserData, signed.Nonce = doc.PublicKey, doc.UserData, doc.Nonce
	for i, value := range doc.PCRs {
		signed.PCRs[i] = nitro.PCR(value)
	}
	if _, err := attest.Verify(nil, authority.Sign(signed), p, now); err != nil {
		t.Errorf("the same contents under a signature: %v", err)
	}
	if _, err := attest.Verify(nil, raw, p, now); err == nil {
		t.Error("a document without a signature was taken")
	}
}
