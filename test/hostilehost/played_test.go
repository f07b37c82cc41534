package hostilehost

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"math/big"
	"net/http"
	"os"
	"path/filepath"
	"sync/atomic"
	"testing"
	"time"

	"github.com/coder/websocket"

	"github.com/cape-functions/cape/core/attest/nitro"
	attestkit "github.com/cape-functions/cape/core/attest/testkit"
	"github.com/cape-functions/cape/core/seal"
	"github.com/cape-functions/cape/core/seal/testkit"
	"github.com/cape-functions/cape/core/wire"
)

// authority signs documents under the platform's development root, as the
// hypervisor does for whatever enclave the operator boots.
func (o *operator) authority() *attestkit.Authority {
	o.t.Helper()
	read := func(name string) []byte {
		text, err := os.ReadFile(filepath.Join(o.dir, "authority", name))
		if err != nil {
			o.t.Fatal(err)
		}
		block, _ := pem.Decode(text)
		return block.Bytes
	}
	root, err := x509.ParseCertificate(read("root.pem"))
	if err != nil {
		o.t.Fatal(err)
	}
	rootKey, err := x509.ParseECPrivateKey(read("root.key"))
	if err != nil {
		o.t.Fatal(err)
	}
	key, err := ecdsa.GenerateKey(elliptic.P384(), rand.Reader)
	if err != nil {
		o.t.Fatal(err)
	}
	leaf, err := x509.CreateCertificate(rand.Reader, &x509.Certificate{
		SerialNumber: big.NewInt(time.Now().UnixNano()), Subject: pkix.Name{CommonName: "leaf"},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
		KeyUsage: x509.KeyUsageDigitalSignature, BasicConstraintsValid: true,
	}, root, key.Public(), rootKey)
	if err != nil {
		o.t.Fatal(err)
	}
	return &attestkit.Authority{Root: root.Raw, CABundle: [][]byte{root.Raw}, Leaf: leaf, LeafKey: key}
}

// played is a genuine image that the operator boots as it likes: every register
// that measures the image is the genuine one.
type played struct {
	*testkit.Enclave
	opened atomic.Bool // a client opened a session with it
}

// play copies what a genuine attest showed, and lets lie change it.
func (o *operator) play(genuine *wire.Attest, lie func(*played)) *played {
	o.t.Helper()
	signed, err := nitro.Parse(genuine.Document)
	if err != nil {
		o.t.Fatal(err)
	}
	e := testkit.NewEnclave(time.Now())
	e.Authority, e.PCRs = o.authority(), signed.Document.PCRs
	e.Config, e.Policy, e.Birth = genuine.Config, genuine.Policy, genuine.Birth
	p := &played{Enclave: e}
	lie(p)
	return p
}

// ServeHTTP answers a hello and notes whether an open follows.
func (p *played) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	ws, err := websocket.Accept(w, r, &websocket.AcceptOptions{Subprotocols: []string{wire.SubprotocolV2}})
	if err != nil {
		return
	}
	defer ws.CloseNow()
	_, frame, err := ws.Read(r.Context())
	if err != nil {
		return
	}
	responder, err := seal.NewResponder(frame, r.URL.Path)
	if err != nil {
		return
	}
	message, err := p.Answer(responder)
	if err != nil || ws.Write(r.Context(), websocket.MessageBinary, message) != nil {
		return
	}
	ws.SetReadLimit(wire.MaxOpen)
	if _, frame, err = ws.Read(r.Context()); err == nil {
		_, _, err = responder.Open(frame)
		p.opened.Store(err == nil)
	}
}

// configured returns the configuration changed, encoded.
func configured(t *testing.T, config []byte, change func(*wire.Config)) []byte {
	t.Helper()
	c, err := wire.ParseConfig(config)
	if err != nil {
		t.Fatal(err)
	}
	change(c)
	out, err := wire.Marshal(c)
	if err != nil {
		t.Fatal(err)
	}
	return out
}

// measured makes the registers those of a runtime that was booted with this configuration.
func (p *played) measured(t *testing.T) {
	t.Helper()
	c, err := wire.ParseConfig(p.Config)
	if err != nil {
		t.Fatal(err)
	}
	pcr, err := wire.ExpectedPCR16(c.Trust)
	if err != nil {
		t.Fatal(err)
	}
	pcrs := map[int]nitro.PCR{}
	for i, v := range p.PCRs {
		pcrs[i] = v
	}
	pcrs[wire.TrustPCR] = pcr
	p.PCRs = pcrs
}
