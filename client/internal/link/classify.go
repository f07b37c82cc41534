package link

import (
	"context"
	"errors"
	"fmt"

	"github.com/coder/websocket"

	"github.com/cape-functions/cape/core/wire"
)

// Classify names what ended a read or write of a WebSocket.
func Classify(ctx context.Context, err error) error {
	if err == nil {
		return nil
	}
	if cause := context.Cause(ctx); cause != nil {
		return cause
	}
	var ce websocket.CloseError
	if errors.As(err, &ce) {
		switch {
		case ce.Code == websocket.StatusNormalClosure:
			return ErrClosed
		case ce.Code == websocket.StatusMessageTooBig:
			return fmt.Errorf("%w: the server refused the size of a message", ErrTooLarge)
		case ce.Code == websocket.StatusTryAgainLater:
			return &RemoteError{Code: wire.CodeUnavailable, Text: ce.Reason}
		}
		return fmt.Errorf("%w: status %d, reason %q", ErrClosed, ce.Code, ce.Reason)
	}
	return fmt.Errorf("%w: %w", ErrClosed, err)
}
