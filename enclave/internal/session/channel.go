package session

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"sync/atomic"
	"time"

	"github.com/coder/websocket"

	"github.com/cape-functions/cape/core/wire"
	"github.com/cape-functions/cape/enclave/internal/boot/event"
)

// errGone: the connection ended; there is nobody to tell.
var errGone = errors.New("connection ended")

// channel is the WebSocket of one session.
type channel struct {
	v      *visit
	ws     *websocket.Conn
	raw    net.Conn
	corked *corked
	watch  *watch
	stop   func() bool        // forgets what the end of the session's context causes
	report func(*fault) error // tells the client of a fault, in the way of its version
}

// tap keeps the connection that an upgrade takes over, for its write deadlines, and decides
// when what was written leaves.
type tap struct {
	http.ResponseWriter
	corked *corked
}

func (t *tap) Hijack() (net.Conn, *bufio.ReadWriter, error) {
	conn, rw, err := http.NewResponseController(t.ResponseWriter).Hijack()
	if err != nil {
		return nil, nil, err
	}
	t.corked = &corked{conn: conn}
	return conn, bufio.NewReadWriter(rw.Reader, bufio.NewWriter(t.corked)), nil
}

// corked holds writes back while cork is set, so that several frames leave in one. Pongs are
// written by whoever reads, so cork is atomic; the WebSocket writes one frame at a time.
type corked struct {
	conn net.Conn
	cork atomic.Bool
	held []byte
}

func (c *corked) Write(p []byte) (int, error) {
	if c.cork.Load() {
		c.held = append(c.held, p...)
		return len(p), nil
	}
	if len(c.held) == 0 {
		return c.conn.Write(p)
	}
	all := append(c.held, p...)
	c.held = all[:0]
	_, err := c.conn.Write(all)
	return len(p), err
}

// isUpgrade tells whether a request asks for a WebSocket; the others get JSON.
func isUpgrade(r *http.Request) bool {
	return strings.EqualFold(r.Header.Get("Upgrade"), "websocket")
}

// open upgrades the request. When ctx ends the client is told that the enclave goes away.
func (v *visit) open(ctx context.Context, w http.ResponseWriter, r *http.Request, chosen string) (*channel, bool) {
	t := &tap{ResponseWriter: w}
	ws, err := websocket.Accept(t, r, &websocket.AcceptOptions{
		Subprotocols:       []string{chosen},
		InsecureSkipVerify: true, // any origin: a token comes with every session, cookies with none
		CompressionMode:    websocket.CompressionDisabled,
	})
	if err != nil {
		return nil, false
	}
	ws.SetReadLimit(-1) // next counts by itself and says what the limit is
	limits := v.s.cfg.Timeouts
	c := &channel{v: v, ws: ws, raw: t.corked.conn, corked: t.corked, watch: newWatch(limits.Handshake)}
	c.report = c.fail
	c.watch.run(limits.Tick, func() { c.close(websocket.StatusNormalClosure, "no traffic") })
	v.guest.onExpel(func() {
		c.close(websocket.StatusTryAgainLater, "the enclave has more handshakes than it can hold: try again in a moment")
	})
	c.stop = context.AfterFunc(ctx, func() { c.close(websocket.StatusGoingAway, "") })
	return c, true
}

// converse upgrades and holds one session.
func (v *visit) converse(ctx context.Context, w http.ResponseWriter, r *http.Request, chosen string, talk func(context.Context, *channel) error) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	c, ok := v.open(ctx, w, r, chosen)
	if !ok {
		return
	}
	defer v.recover()
	began := time.Now()
	c.finish(talk(ctx, c), began)
}

// close says goodbye, waits a moment for the answer, and ends the connection. Frames that
// were sent before arrive before.
func (c *channel) close(code websocket.StatusCode, reason string) {
	c.watch.stop()
	timer := time.AfterFunc(c.v.s.cfg.Timeouts.Linger, func() { c.raw.Close() })
	defer timer.Stop()
	_ = c.ws.Close(code, reason) // a client that does not answer is cut off
}

// next reads one message of at most max bytes, which the caller must release. Errors are
// errGone or faults; after one that is not fatal, the message was read.
func (c *channel) next(want websocket.MessageType, max int64) (*buffer, error) {
	limits := c.v.s.cfg.Timeouts
	typ, r, err := c.ws.Reader(context.Background())
	if err != nil {
		return nil, errGone
	}
	progress := func() {} // a small message comes at once, or within what was expected of it
	if max > smallBuffer {
		c.watch.expect(limits.Stall)
		progress = c.watch.touch
	}
	b := c.v.tenant.buffer(max)
	err = b.fill(r, progress)
	c.watch.expect(limits.Idle)
	switch {
	case err == nil && typ == want:
		return b, nil
	case err == nil:
		err = newFault(wire.CodeInvalidRequest, "expected "+frameName[want]+", got "+frameName[typ], "see the order of messages in the protocol")
	case errors.Is(err, errLimit):
		err = fatal(wire.CodeTooLarge, fmt.Sprintf("the message is larger than the %d bytes allowed here", max), "send less at once")
	case errors.Is(err, errMemory):
		err = faultOf(err)
	default:
		err = errGone
	}
	b.release()
	return nil, err
}

var frameName = map[websocket.MessageType]string{websocket.MessageBinary: "a binary frame", websocket.MessageText: "a text frame"}

// frame reads one binary message of at most max bytes into buf, or more room than that has.
func (c *channel) frame(buf []byte, max int) ([]byte, error) {
	limits := c.v.s.cfg.Timeouts
	typ, r, err := c.ws.Reader(context.Background())
	if err != nil {
		return nil, errGone
	}
	c.watch.expect(limits.Stall)
	for buf = buf[:0]; ; {
		if len(buf) == cap(buf) {
			buf = append(buf, 0)[:len(buf)]
		}
		n, err := r.Read(buf[len(buf):cap(buf)])
		buf = buf[:len(buf)+n]
		switch {
		case len(buf) > max:
			return nil, fatal(wire.CodeTooLarge, fmt.Sprintf("a frame of more than %d bytes", max), "send it in smaller records")
		case errors.Is(err, io.EOF) && typ != websocket.MessageBinary:
			return nil, fatal(wire.CodeInvalidRequest, "expected a binary frame, got a text frame", "records are binary")
		case errors.Is(err, io.EOF):
			c.watch.expect(limits.Idle)
			return buf, nil
		case err != nil:
			return nil, errGone
		}
		c.watch.touch()
	}
}

func (c *channel) write(typ websocket.MessageType, frame []byte) error {
	c.patience()
	defer c.raw.SetWriteDeadline(time.Time{})
	if err := c.ws.Write(context.Background(), typ, frame); err != nil {
		return errGone
	}
	return nil
}

// patience bounds how long the client may take to read what is written next.
func (c *channel) patience() {
	_ = c.raw.SetWriteDeadline(time.Now().Add(c.v.s.cfg.Timeouts.Write)) // fails when closed, as the write then does
}

// finish reports how a session ended, to the client and to the log, and ends it.
func (c *channel) finish(err error, began time.Time) {
	code, word := websocket.StatusNormalClosure, "ok"
	if err != nil && !errors.Is(err, errGone) {
		f := faultOf(err)
		word = f.code
		if f.code == wire.CodeTooLarge {
			code = websocket.StatusMessageTooBig
		}
		if t := (told{}); !errors.As(err, &t) && c.report(f) != nil {
			word = "gone"
		}
	}
	c.v.s.log.Info(event.SessionEnded, event.Route, c.v.route, event.Code, word, event.Millis, time.Since(began).Milliseconds())
	if c.stop() {
		c.close(code, "")
	}
}
