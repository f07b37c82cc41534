package session

import (
	"bufio"
	"context"
	"encoding/base64"
	"errors"
	"fmt"
	"net"
	"net/http"
	"strings"
	"time"

	"github.com/coder/websocket"

	"github.com/cape-functions/cape/core/wire"
	"github.com/cape-functions/cape/enclave/internal/boot/event"
)

// errGone: the connection ended; there is nobody to tell.
var errGone = errors.New("connection ended")

// channel is the WebSocket of one session.
type channel struct {
	v     *visit
	ws    *websocket.Conn
	raw   net.Conn
	watch *watch
	stop  func() bool // forgets what the end of the session's context causes
}

// tap keeps the connection that an upgrade takes over, for its write deadlines.
type tap struct {
	http.ResponseWriter
	conn net.Conn
}

func (t *tap) Hijack() (net.Conn, *bufio.ReadWriter, error) {
	conn, rw, err := http.NewResponseController(t.ResponseWriter).Hijack()
	t.conn = conn
	return conn, rw, err
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
	c := &channel{v: v, ws: ws, raw: t.conn, watch: newWatch(limits.Handshake)}
	c.watch.run(limits.Tick, func() { c.close(websocket.StatusNormalClosure, "no traffic") })
	c.stop = context.AfterFunc(ctx, func() { c.close(websocket.StatusGoingAway, "") })
	return c, true
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
	c.watch.expect(limits.Stall)
	b := c.v.s.mem.buffer(max)
	err = b.fill(r, c.watch.touch)
	c.watch.expect(limits.Idle)
	switch {
	case err == nil && typ == want:
		return b, nil
	case err == nil:
		err = newFault(wire.CodeInvalidRequest, "expected "+frameName(want)+", got "+frameName(typ), "see the order of messages in the protocol")
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

func frameName(t websocket.MessageType) string {
	if t == websocket.MessageBinary {
		return "a binary frame"
	}
	return "a text frame"
}

// receive reads one wrapped JSON message.
func (c *channel) receive(v any) error {
	b, err := c.next(websocket.MessageText, wire.MaxTextFrame)
	if err != nil {
		return err
	}
	defer b.release()
	var remote *wire.RemoteError
	if err := wire.DecodeV1(b.bytes(), v); errors.As(err, &remote) {
		return errGone // the client gave up
	} else if err != nil {
		return fatal(wire.CodeInvalidRequest, "the message is not the JSON expected here", `messages are {"message": …}`)
	}
	return nil
}

// send wraps a message and writes it.
func (c *channel) send(v any) error {
	frame, err := wire.EncodeV1(v)
	if err != nil {
		return fmt.Errorf("encoding message: %w", err)
	}
	return c.write(frame)
}

func (c *channel) write(frame []byte) error {
	c.patience()
	defer c.raw.SetWriteDeadline(time.Time{})
	if err := c.ws.Write(context.Background(), websocket.MessageText, frame); err != nil {
		return errGone
	}
	return nil
}

// patience bounds how long the client may take to read what is written next.
func (c *channel) patience() {
	_ = c.raw.SetWriteDeadline(time.Now().Add(c.v.s.cfg.Timeouts.Write)) // fails when closed, as the write then does
}

// fail reports a fault in-band.
func (c *channel) fail(f *fault) error { return c.write(wire.EncodeErrorV1(f.code, f.line())) }

// finish reports how a session ended, to the client and to the log, and ends it.
func (c *channel) finish(err error, began time.Time) {
	code, word := websocket.StatusNormalClosure, "ok"
	if err != nil && !errors.Is(err, errGone) {
		f := faultOf(err)
		word = f.code
		if f.code == wire.CodeTooLarge {
			code = websocket.StatusMessageTooBig
		}
		if c.fail(f) != nil {
			word = "gone"
		}
	}
	c.v.s.log.Info(event.SessionEnded, event.Route, c.v.route, event.Code, word, event.Millis, time.Since(began).Milliseconds())
	if c.stop() {
		c.close(code, "")
	}
}

const (
	// wholeResult is the size up to which a result is one frame.
	wholeResult = 256 << 10
	// resultPiece is how much of a larger one is encoded at once; a multiple of 3.
	resultPiece = 768 << 10
)

// sendResult writes {"message": {"type", "message", "checksums", "signed_checksums"}}, the
// JSON of wire.ResultV1, without holding the encoded form of a large output.
func (c *channel) sendResult(output []byte, tail []byte) error {
	const head = `{"message":{"type":"` + wire.TypeResult + `","message":"`
	b64 := base64.StdEncoding
	if len(output) <= wholeResult {
		frame := make([]byte, 0, len(head)+b64.EncodedLen(len(output))+len(tail))
		frame = b64.AppendEncode(append(frame, head...), output)
		return c.write(append(frame, tail...))
	}
	defer c.raw.SetWriteDeadline(time.Time{})
	c.patience()
	w, err := c.ws.Writer(context.Background(), websocket.MessageText)
	if err != nil {
		return errGone
	}
	text := make([]byte, 0, b64.EncodedLen(resultPiece))
	for piece := []byte(head); ; {
		if _, err := w.Write(piece); err != nil {
			return errGone
		}
		if len(output) == 0 {
			break
		}
		n := min(len(output), resultPiece)
		piece = b64.AppendEncode(text, output[:n])
		output = output[n:]
		c.patience()
	}
	if _, err := w.Write(tail); err != nil {
		return errGone
	}
	if w.Close() != nil {
		return errGone
	}
	return nil
}
