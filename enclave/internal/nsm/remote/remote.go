// Package remote carries requests to a security module that a launcher plays, over a
// connection of its own: each message is its length as four big-endian bytes and CBOR.
//
// It trusts nothing of what comes back but its framing, which it bounds in size and time.
// It refuses to go on after a broken exchange, since the stream may then be out of step.
// Only cape-runtime-dev links it: a production image has no such path.
package remote

import (
	"encoding/binary"
	"fmt"
	"io"
	"net"
	"sync"
	"time"

	"github.com/cape-functions/cape/enclave/internal/nsm"
)

// Timeout bounds one exchange.
const Timeout = 10 * time.Second

// Dial returns a Transport over conn, which it takes over.
func Dial(conn net.Conn) nsm.Transport { return &transport{conn: conn, timeout: Timeout} }

type transport struct {
	conn    net.Conn
	timeout time.Duration

	mu sync.Mutex
}

// Exchange implements nsm.Transport.
func (t *transport) Exchange(req []byte) ([]byte, error) {
	if len(req) == 0 || len(req) > nsm.MaxRequest {
		return nil, fmt.Errorf("%w: %d bytes", nsm.ErrTooLarge, len(req))
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	answer, err := t.exchange(req)
	if err != nil {
		// What comes later could be the answer to this request.
		t.conn.Close()
	}
	return answer, err
}

func (t *transport) exchange(req []byte) ([]byte, error) {
	if err := t.conn.SetDeadline(time.Now().Add(t.timeout)); err != nil {
		return nil, fmt.Errorf("%w: %w", nsm.ErrTransport, err)
	}
	frame := append(binary.BigEndian.AppendUint32(nil, uint32(len(req))), req...)
	if _, err := t.conn.Write(frame); err != nil {
		return nil, fmt.Errorf("%w: sending a request: %w", nsm.ErrTransport, err)
	}
	var head [4]byte
	if _, err := io.ReadFull(t.conn, head[:]); err != nil {
		return nil, fmt.Errorf("%w: reading an answer: %w", nsm.ErrTransport, err)
	}
	n := binary.BigEndian.Uint32(head[:])
	if n == 0 || n > nsm.MaxAnswer {
		return nil, fmt.Errorf("%w: an answer of %d bytes, 1 to %d are allowed", nsm.ErrAnswer, n, nsm.MaxAnswer)
	}
	answer := make([]byte, n)
	if _, err := io.ReadFull(t.conn, answer); err != nil {
		return nil, fmt.Errorf("%w: reading an answer: %w", nsm.ErrTransport, err)
	}
	return answer, nil
}

// Close implements nsm.Transport.
func (t *transport) Close() error { return t.conn.Close() }
