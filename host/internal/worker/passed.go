package worker

import (
	"bytes"
	"context"
	"encoding/pem"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/url"
	"os/exec"
	"strings"
	"sync/atomic"
	"time"

	"github.com/cape-functions/cape/core/wire"
	"github.com/cape-functions/cape/host/internal/enclaves"
	"github.com/cape-functions/cape/host/internal/gateway"
)

// certifyWithin bounds the operator's program. An enclave waits a little longer for its
// certificate; at boot five seconds alone, and asks again while it serves.
const certifyWithin = wire.LinkCall - 2*time.Second

// passed is a listener whose connections go to enclaves as they are: TLS ends there.
type passed struct {
	gate *gateway.Gateway
	url  string
	// certified: an enclave has had a certificate, so that sessions can be held there.
	certified atomic.Bool
}

// openPassed opens it where the settings have one.
func (w *worker) openPassed(failed chan<- error) error {
	if w.cfg.Passed.Listen == "" {
		return nil
	}
	l, err := net.Listen("tcp", w.cfg.Passed.Listen)
	if err != nil {
		return fmt.Errorf("listening on %s: %w; name another address with --enclave-listen", w.cfg.Passed.Listen, err)
	}
	w.log.Info("TLS is passed through to enclaves", "address", l.Addr().String(), "url", w.passed.url)
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		if err := w.passed.gate.Pass(l); err != nil {
			failed <- err
		}
	}()
	w.onClose(func() error {
		err := l.Close()
		w.passed.gate.Close()
		<-ended
		return err
	})
	return nil
}

// newPassed returns nil where the settings have no such listener.
func (w *worker) newPassed() *passed {
	if w.cfg.Passed.Listen == "" {
		return nil
	}
	return &passed{
		url:  strings.TrimSuffix(w.cfg.Passed.URL, "/"),
		gate: gateway.New(gateway.Config{Dial: w.dialer(wire.PortSessionTLS), Max: w.cfg.Enclave.Count * maxCarried, PerClient: w.cfg.PerClient, Log: w.log}),
	}
}

// elsewhere is where a session that may be held by TLS to its enclave goes, or "".
func (p *passed) elsewhere(r *http.Request) string {
	if p == nil || !p.certified.Load() {
		return ""
	}
	return p.url + r.URL.RequestURI()
}

// certify has the operator's program make a certificate for an enclave's key, which is never here. What it prints on
// standard error goes to the log.
func (w *worker) certify(ctx context.Context, csr []byte) ([]byte, error) {
	u, err := url.Parse(w.passed.url)
	if err != nil {
		return nil, err
	}
	ctx, cancel := context.WithTimeout(ctx, certifyWithin)
	defer cancel()
	cmd := exec.CommandContext(ctx, w.cfg.Passed.Certify, u.Hostname())
	cmd.WaitDelay = time.Second
	cmd.Stdin = bytes.NewReader(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE REQUEST", Bytes: csr}))
	chain, said := &limited{left: wire.MaxCertificates}, &limited{left: 4 << 10}
	cmd.Stdout, cmd.Stderr = chain, said
	if err := cmd.Run(); err != nil {
		w.log.Error("no certificate for an enclave", "program", w.cfg.Passed.Certify, "reason", errors.Join(err, ctx.Err()), "said", said.String())
		return nil, err
	}
	w.passed.certified.Store(true)
	return chain.Bytes(), nil
}

// limited keeps at most left bytes, and fails beyond them.
type limited struct {
	bytes.Buffer
	left int
}

func (l *limited) Write(b []byte) (int, error) {
	if l.left -= len(b); l.left < 0 {
		return 0, errors.New("the program printed too much")
	}
	return l.Buffer.Write(b)
}

// dialer connects to a port of an enclave.
func (w *worker) dialer(port uint32) func(context.Context) (net.Conn, error) {
	return func(ctx context.Context) (net.Conn, error) {
		w.mu.Lock()
		k := w.keeper
		w.mu.Unlock()
		if k == nil {
			return nil, enclaves.ErrNone
		}
		return k.Dial(ctx, port)
	}
}

// gates are the worker's gateways.
func (w *worker) gates() []*gateway.Gateway {
	if w.passed == nil {
		return []*gateway.Gateway{w.gate}
	}
	return []*gateway.Gateway{w.gate, w.passed.gate}
}

// active is how many connections are carried now.
func (w *worker) active() (n int) {
	for _, g := range w.gates() {
		n += g.Active()
	}
	return n
}
