package link

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"strings"

	"github.com/cape-functions/cape/core/wire"
)

// Sentinels.
var (
	// ErrUnreachable: no connection, or none that TLS accepts.
	ErrUnreachable = errors.New("server cannot be reached")
	// ErrRedirect: the server sent the client somewhere it does not go.
	ErrRedirect = errors.New("redirect refused")
	// ErrProtocol: the server does not speak the protocol.
	ErrProtocol = errors.New("server does not speak Cape's protocol")
	// ErrToken: there is no token, or none that can be sent.
	ErrToken = errors.New("no usable token")
	// ErrClosed: the connection ended before the answer came.
	ErrClosed = errors.New("connection to the enclave was closed")
	// ErrStalled: nothing moved for too long.
	ErrStalled = errors.New("server has stopped answering")
	// ErrTooLarge: an input or an answer is over its limit.
	ErrTooLarge = errors.New("too large")
	// ErrChecksum: what came back is not what the attested enclave computed from what was
	// sent.
	ErrChecksum = errors.New("checksums do not agree")
)

// RemoteError is an error that the server reported. Its texts are untrusted.
type RemoteError struct {
	// Code is one of the codes of package wire.
	Code string
	// Text says what happened, Advice what to do about it; Advice may be empty.
	Text, Advice string
	// Status is the HTTP status, 0 for an error from inside a session.
	Status int
}

// Error returns code and text.
func (e *RemoteError) Error() string {
	if e.Status == 0 || e.Text != "" {
		return e.Code + ": " + e.Text
	}
	return fmt.Sprintf("%s: HTTP status %d", e.Code, e.Status)
}

// Expired tells whether the server refused the token because of its age.
func (e *RemoteError) Expired() bool { return strings.Contains(e.Text, "token is expired") }

const maxErrorBody = 64 << 10

// remote makes a RemoteError of a response that is not a success.
func remote(status int, body []byte) *RemoteError {
	e := &RemoteError{Status: status, Code: codeOf(status)}
	var b wire.ErrorBody
	if err := json.NewDecoder(bytes.NewReader(body)).Decode(&b); err != nil {
		e.Text = fmt.Sprintf("status %d %s, without an explanation", status, http.StatusText(status))
		return e
	}
	e.Text, e.Advice = b.Error, b.Message
	if e.Text == "" {
		e.Text, e.Advice = b.Message, ""
	}
	if e.Text == e.Advice {
		e.Advice = ""
	}
	if b.Code != "" {
		e.Code = b.Code
	}
	// The text of a v1 error may repeat its code.
	e.Text = strings.TrimPrefix(e.Text, e.Code+": ")
	return e
}

func codeOf(status int) string {
	switch status {
	case http.StatusUnauthorized, http.StatusForbidden:
		return wire.CodeUnauthorized
	case http.StatusNotFound:
		return wire.CodeNotFound
	case http.StatusRequestEntityTooLarge:
		return wire.CodeTooLarge
	case http.StatusTooManyRequests:
		return wire.CodeQuota
	case http.StatusBadGateway, http.StatusServiceUnavailable, http.StatusGatewayTimeout:
		return wire.CodeUnavailable
	}
	if status >= 400 && status < 500 {
		return wire.CodeInvalidRequest
	}
	return wire.CodeInternal
}
