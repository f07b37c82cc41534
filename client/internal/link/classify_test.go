package link

import (
	"context"
	"errors"
	"io"
	"testing"

	"github.com/coder/websocket"

	"github.com/cape-functions/cape/core/wire"
)

func TestClassify(t *testing.T) {
	for _, tc := range []struct {
		err, want error
	}{
		{websocket.CloseError{Code: websocket.StatusNormalClosure}, ErrClosed},
		{websocket.CloseError{Code: websocket.StatusGoingAway}, ErrClosed},
		{websocket.CloseError{Code: websocket.StatusMessageTooBig}, ErrTooLarge},
		{io.EOF, ErrClosed},
	} {
		if err := Classify(t.Context(), tc.err); !errors.Is(err, tc.want) {
			t.Errorf("%v becomes %v, want %v", tc.err, err, tc.want)
		}
	}
	var remote *RemoteError
	if err := Classify(t.Context(), websocket.CloseError{Code: websocket.StatusTryAgainLater, Reason: "busy"}); !errors.As(err, &remote) ||
		remote.Code != wire.CodeUnavailable || remote.Text != "busy" {
		t.Errorf("an enclave that is busy: %v", err)
	}
	mine := errors.New("mine")
	ctx, cancel := context.WithCancelCause(t.Context())
	cancel(mine)
	if err := Classify(ctx, io.EOF); !errors.Is(err, mine) {
		t.Errorf("given up: %v", err)
	}
	if err := Classify(t.Context(), nil); err != nil {
		t.Error(err)
	}
}
