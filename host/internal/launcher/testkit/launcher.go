// Package testkit plays enclaves for tests of the platform around them.
package testkit

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"sync"
	"sync/atomic"

	"github.com/cape-functions/cape/core/wire"
	"github.com/cape-functions/cape/host/internal/launcher"
)

// Launcher starts enclaves that are goroutines: each boots over the boot link,
// and then makes a key or serves Session.
type Launcher struct {
	// Session answers on the session port.
	Session http.Handler
	// Measurements is what the next enclave is measured as.
	Measurements map[string]string
	// Barren makes enclaves end without making the key they should make.
	Barren bool
	// Err, when set, is why the next launches fail.
	Err error

	mu       sync.Mutex
	boots    []wire.Boot
	enclaves []*Enclave
}

// Boots returns the boot messages seen so far.
func (l *Launcher) Boots() []wire.Boot {
	l.mu.Lock()
	defer l.mu.Unlock()
	return append([]wire.Boot(nil), l.boots...)
}

// Last returns the enclave that was started last.
func (l *Launcher) Last() *Enclave {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.enclaves[len(l.enclaves)-1]
}

// All returns the enclaves that were started, in order.
func (l *Launcher) All() []*Enclave {
	l.mu.Lock()
	defer l.mu.Unlock()
	return append([]*Enclave(nil), l.enclaves...)
}

// Set changes the launcher while a platform uses it.
func (l *Launcher) Set(change func(*Launcher)) {
	l.mu.Lock()
	defer l.mu.Unlock()
	change(l)
}

// Measure implements launcher.Launcher.
func (l *Launcher) Measure(context.Context) (map[string]string, error) { return l.Measurements, nil }

// Launch implements launcher.Launcher.
func (l *Launcher) Launch(ctx context.Context, spec launcher.Spec) (launcher.Enclave, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.Err != nil {
		return nil, l.Err
	}
	e := &Enclave{spec: spec, measurements: l.Measurements, done: make(chan struct{})}
	if err := e.boot(ctx, l.Barren); err != nil {
		return nil, err
	}
	l.boots = append(l.boots, e.message)
	l.enclaves = append(l.enclaves, e)
	if spec.Oneshot {
		e.End(nil)
		return e, nil
	}
	e.serve(l.Session)
	return e, nil
}

// Enclave is a running enclave.
type Enclave struct {
	spec         launcher.Spec
	message      wire.Boot
	measurements map[string]string
	sessions     *pipeListener
	server       *http.Server

	dialled atomic.Int32

	once sync.Once
	done chan struct{}
	err  error
}

// Dialled is how many connections its session port got.
func (e *Enclave) Dialled() int { return int(e.dialled.Load()) }

// Link returns a client for one of the links of the enclave's host.
func (e *Enclave) Link(port uint32) *http.Client {
	return &http.Client{Transport: &http.Transport{
		DisableKeepAlives: true,
		DialContext: func(context.Context, string, string) (net.Conn, error) {
			inside, outside := net.Pipe()
			go e.spec.Services[port](outside)
			return inside, nil
		},
	}}
}

func (e *Enclave) boot(ctx context.Context, barren bool) error {
	c := e.Link(wire.PortBoot)
	b, err := call(ctx, c, http.MethodGet, "/v1/boot", nil)
	if err != nil {
		return err
	}
	if err := wire.Unmarshal(b, 1<<20, &e.message); err != nil {
		return err
	}
	if e.message.Mode != wire.ModeKMSInit || barren {
		return nil
	}
	birth, err := wire.Marshal(wire.Birth{KMS: "arn:aws:kms:us-east-1:000000000000:key/" + fmt.Sprintf("%p", e), Policy: []byte("policy"), Document: []byte("document")})
	if err != nil {
		return err
	}
	_, err = call(ctx, c, http.MethodPost, "/v1/birth", birth)
	return err
}

func call(ctx context.Context, c *http.Client, method, path string, body []byte) ([]byte, error) {
	req, err := http.NewRequestWithContext(ctx, method, "http://host"+path, bytes.NewReader(body))
	if err != nil {
		return nil, err
	}
	resp, err := c.Do(req)
	if err != nil {
		return nil, err
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	if err == nil && resp.StatusCode >= 300 {
		err = fmt.Errorf("%s %s: %s", method, path, resp.Status)
	}
	return b, err
}

func (e *Enclave) serve(h http.Handler) {
	e.sessions = &pipeListener{conns: make(chan net.Conn), done: e.done}
	e.server = &http.Server{Handler: h}
	go func() { _ = e.server.Serve(e.sessions) }() // ends with the enclave
}

// End ends the enclave as if it had stopped by itself.
func (e *Enclave) End(err error) {
	e.once.Do(func() {
		e.err = err
		close(e.done)
		if e.server != nil {
			_ = e.server.Close()
		}
	})
}

// Dial implements launcher.Enclave.
func (e *Enclave) Dial(ctx context.Context, port uint32) (net.Conn, error) {
	if port != wire.PortSession && port != wire.PortSessionTLS || e.sessions == nil {
		return nil, errors.New("nobody listens there")
	}
	inside, outside := net.Pipe()
	select {
	case e.sessions.conns <- inside:
		e.dialled.Add(1)
		return outside, nil
	case <-e.done:
		return nil, net.ErrClosed
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}

// Done implements launcher.Enclave.
func (e *Enclave) Done() <-chan struct{} { return e.done }

// Err implements launcher.Enclave.
func (e *Enclave) Err() error { return e.err }

// Release implements launcher.Enclave.
func (e *Enclave) Release() wire.Release {
	return wire.Release{Measurements: e.measurements, Python: "3.11", Platform: "linux-x86_64", Revision: "test"}
}

// Close implements launcher.Enclave.
func (e *Enclave) Close() error {
	e.End(nil)
	return nil
}

type pipeListener struct {
	conns chan net.Conn
	done  chan struct{}
}

func (l *pipeListener) Accept() (net.Conn, error) {
	select {
	case c := <-l.conns:
		return c, nil
	case <-l.done:
		return nil, net.ErrClosed
	}
}

func (l *pipeListener) Close() error   { return nil }
func (l *pipeListener) Addr() net.Addr { return &net.UnixAddr{Name: "session", Net: "unix"} }
