package hostilehost

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/coder/websocket"

	"github.com/cape-functions/cape/core/account"
	"github.com/cape-functions/cape/core/attest"
	"github.com/cape-functions/cape/core/attest/nitro"
	"github.com/cape-functions/cape/core/attest/policy"
	"github.com/cape-functions/cape/core/seal"
	"github.com/cape-functions/cape/core/secret"
	"github.com/cape-functions/cape/core/wire"
)

// believed is what a caller accepts of an enclave.
type believed struct {
	root []byte
	pcr0 nitro.PCR
}

// connection is a v2 session of a caller that knows the protocol and nothing
// of the SDK, so that it can say what the SDK never would.
type connection struct {
	ctx      context.Context
	ws       *websocket.Conn
	keys     *seal.Channel
	attested *seal.Attested
	auditor  *seal.Auditor
	accepted *wire.Accepted
	next     uint64
}

// dial opens a WebSocket of protocol v2.
func dial(ctx context.Context, url, path string) (*websocket.Conn, error) {
	ws, _, err := websocket.Dial(ctx, url+path, &websocket.DialOptions{Subprotocols: []string{wire.SubprotocolV2}, CompressionMode: websocket.CompressionDisabled})
	if err != nil {
		return nil, err
	}
	ws.SetReadLimit(wire.MaxAttest)
	return ws, nil
}

// connect opens a session on a path as o says. The connection ends with the
// test. An error the enclave told is a *wire.RemoteError.
func connect(t *testing.T, url, path string, b believed, o seal.Opening) (*connection, error) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
	t.Cleanup(cancel)
	ws, err := dial(ctx, url, path)
	if err != nil {
		return nil, err
	}
	t.Cleanup(func() { ws.CloseNow() })
	c := &connection{ctx: ctx, ws: ws}
	caller, err := seal.NewCaller(path)
	if err != nil {
		return nil, err
	}
	if err := ws.Write(ctx, websocket.MessageBinary, caller.Hello()); err != nil {
		return nil, err
	}
	_, message, err := ws.Read(ctx)
	if err != nil {
		return nil, err
	}
	a, err := caller.Receive(message)
	if err != nil {
		return nil, err
	}
	evidence, err := attest.Verify(nil, a.Document, policy.Policy{Roots: [][]byte{b.root}, PCRs: map[int][]nitro.PCR{0: {b.pcr0}}, Nonce: caller.Nonce()}, time.Now())
	if err != nil {
		return nil, err
	}
	if c.attested, err = caller.Bind(evidence, b.root); err != nil {
		return nil, err
	}
	frame, keys, err := caller.Open(o)
	if err != nil {
		return nil, err
	}
	c.keys, c.auditor = keys, seal.NewAuditor(c.attested)
	if err := ws.Write(ctx, websocket.MessageBinary, frame); err != nil {
		return nil, err
	}
	ws.SetReadLimit(wire.MaxFrame)
	m, _, err := c.receive()
	if err != nil {
		return nil, err
	}
	var ok bool
	if c.accepted, ok = m.(*wire.Accepted); !ok {
		return nil, fmt.Errorf("the first record is a %T", m)
	}
	return c, nil
}

// send seals and sends one record.
func (c *connection) send(record []byte) error {
	frame, err := c.keys.Out.Seal(record)
	if err != nil {
		return err
	}
	return c.ws.Write(c.ctx, websocket.MessageBinary, frame)
}

func (c *connection) message(m wire.Message) error {
	record, err := wire.AppendMessage(nil, m)
	if err != nil {
		return err
	}
	return c.send(record)
}

// receive returns the next message, or the payload of a data record.
func (c *connection) receive() (wire.Message, []byte, error) {
	_, frame, err := c.ws.Read(c.ctx)
	if err != nil {
		return nil, nil, err
	}
	record, err := c.keys.In.Open(frame)
	if err != nil {
		return nil, nil, err
	}
	if wire.TypeOf(record) == wire.RecordData {
		_, payload, err := wire.ParseData(record)
		return nil, payload, err
	}
	m, err := wire.ParseFromEnclave(record)
	if f, ok := m.(*wire.Failure); ok {
		return nil, nil, &wire.RemoteError{Code: f.Code, Text: f.Message}
	}
	return m, nil, err
}

// stream sends one input or function whole.
func (c *connection) stream(begin *wire.Begin, content []byte) error {
	c.next++
	begin.ID = c.next
	if err := c.message(begin); err != nil {
		return err
	}
	for part := range chunks(content, wire.DataPayload) {
		if err := c.send(append(wire.AppendDataHead(nil, begin.ID), part...)); err != nil {
			return err
		}
	}
	return c.message(&wire.End{ID: begin.ID})
}

func chunks(b []byte, n int) func(func([]byte) bool) {
	return func(yield func([]byte) bool) {
		for len(b) > 0 {
			part := b[:min(n, len(b))]
			if b = b[len(part):]; !yield(part) {
				return
			}
		}
	}
}

// invoke sends one input and returns the output, once its receipt held, and
// what the handler logged.
func (c *connection) invoke(input []byte) (output, logs []byte, err error) {
	if err := c.stream(&wire.Begin{Kind: wire.KindInput}, input); err != nil {
		return nil, nil, err
	}
	for {
		m, payload, err := c.receive()
		if err != nil {
			return nil, logs, err
		}
		output = append(output, payload...)
		switch m := m.(type) {
		case *wire.Log:
			logs = append(logs, m.Data...)
		case *wire.Result:
			_, err := c.auditor.Check(m, sha256.Sum256(input), [32]byte(c.accepted.Fn), sha256.Sum256(output))
			return output, logs, err
		}
	}
}

// deploy stores a function whose manifest is given as it is signed.
func (c *connection) deploy(manifest, sig, zip []byte) (*wire.Deployed, error) {
	if err := c.stream(&wire.Begin{Kind: wire.KindFunction, Manifest: manifest, Sig: sig}, zip); err != nil {
		return nil, err
	}
	for {
		m, _, err := c.receive()
		if err != nil {
			return nil, err
		}
		if d, ok := m.(*wire.Deployed); ok {
			return d, nil
		}
	}
}

// code is the code of an error that the enclave told, "" for any other.
func code(err error) string {
	var remote *wire.RemoteError
	if errors.As(err, &remote) {
		return remote.Code
	}
	return ""
}

func opening(token string, key *account.Key) seal.Opening {
	return seal.Opening{Token: secret.New([]byte(strings.Clone(token))), Key: key}
}
