package session

import (
	"context"
	"encoding/base64"
	"errors"
	"fmt"
	"time"

	"github.com/coder/websocket"

	"github.com/cape-functions/cape/core/wire"
)

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
	return c.write(websocket.MessageText, frame)
}

// fail reports a fault in-band.
func (c *channel) fail(f *fault) error {
	return c.write(websocket.MessageText, wire.EncodeErrorV1(f.code, f.line()))
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
		return c.write(websocket.MessageText, append(frame, tail...))
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
