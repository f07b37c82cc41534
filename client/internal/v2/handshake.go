package v2

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"time"

	"github.com/coder/websocket"

	"github.com/cape-functions/cape/client/internal/link"
	"github.com/cape-functions/cape/core/attest"
	"github.com/cape-functions/cape/core/keypolicy"
	"github.com/cape-functions/cape/core/seal"
	"github.com/cape-functions/cape/core/wire"
)

const (
	// attestPatience bounds the wait for the document: an enclave may be starting.
	attestPatience = 2 * time.Minute
	// movePatience bounds the time in which one frame must move.
	movePatience = 60 * time.Second
)

// ErrTLS: the enclave ends TLS itself, and this connection ends elsewhere.
var ErrTLS = errors.New("TLS of this connection does not end in the attested enclave")

// Answer is what an enclave answered to hello, before anything of it counts.
type Answer struct {
	Document, Nonce []byte
	// Bind checks that evidence, which was verified, vouches for the rest of the answer.
	Bind func(*attest.Evidence) (*seal.Attested, error)
}

// Judge verifies an answer: it must call Bind, and return what Bind returned.
type Judge func(context.Context, Answer) (*seal.Attested, error)

// Open starts a session on the socket: hello, attest, judge, open. Until judge agrees,
// nothing but a nonce is sent. It takes the socket over, also when it fails.
func Open(ctx context.Context, socket *link.Socket, route string, judge Judge, opening seal.Opening, o Options) (_ *Session, err error) {
	defer func() {
		if err != nil {
			_ = socket.CloseNow()
		}
	}()
	caller, err := seal.NewCaller(route)
	if err != nil {
		return nil, err
	}
	caller.Births = o.Births
	message, err := greet(ctx, socket, caller.Hello())
	if err != nil {
		return nil, err
	}
	answer, err := caller.Receive(message)
	if err != nil {
		return nil, refusal(err)
	}
	attested, err := judge(ctx, Answer{Document: answer.Document, Nonce: caller.Nonce(),
		Bind: once(socket, func(ev *attest.Evidence) (*seal.Attested, error) { return caller.Bind(ev, ev.Document.CABundle[0]) })})
	if err != nil {
		return nil, err
	}
	frame, channel, err := caller.Open(opening)
	if err != nil {
		return nil, err
	}
	return newSession(socket, attested, channel, frame, o), nil
}

// Key asks for a Cape Key and closes the connection. It returns what was answered as well,
// which a caller may keep.
func Key(ctx context.Context, socket *link.Socket, route string, of wire.KeyOf, births *keypolicy.Births, judge Judge) (*seal.AttestedKey, *wire.KeyAttest, error) {
	defer socket.CloseNow()
	caller, err := seal.NewKeyCaller(route, of)
	if err != nil {
		return nil, nil, err
	}
	caller.Births = births
	message, err := greet(ctx, socket, caller.Hello())
	if err != nil {
		return nil, nil, err
	}
	answer, err := caller.Receive(message)
	if err != nil {
		return nil, nil, refusal(err)
	}
	var key *seal.AttestedKey
	_, err = judge(ctx, Answer{Document: answer.Document, Nonce: caller.Nonce(), Bind: once(socket, func(ev *attest.Evidence) (*seal.Attested, error) {
		if key, err = caller.Bind(ev, ev.Document.CABundle[0]); err != nil {
			return nil, err
		}
		return &key.Attested, nil
	})})
	if err != nil {
		return nil, nil, err
	}
	_ = socket.Close(websocket.StatusNormalClosure, "") // the answer is here
	return key, answer, nil
}

// once binds at the first call and remembers what came of it: judges may look twice. It
// holds the document against the connection it came on.
func once(socket *link.Socket, bind func(*attest.Evidence) (*seal.Attested, error)) func(*attest.Evidence) (*seal.Attested, error) {
	var attested *seal.Attested
	return func(ev *attest.Evidence) (*seal.Attested, error) {
		if attested != nil && bytes.Equal(attested.Evidence.Raw, ev.Raw) {
			return attested, nil
		}
		a, err := bind(ev)
		if err != nil {
			return nil, err
		}
		if a.TLS != nil && !bytes.Equal(a.TLS, socket.PeerKey) {
			return nil, ErrTLS
		}
		attested = a
		return a, nil
	}
}

// greet sends hello and returns the enclave's answer.
func greet(ctx context.Context, socket *link.Socket, hello []byte) ([]byte, error) {
	ctx, cancel := context.WithTimeoutCause(ctx, attestPatience, link.ErrStalled)
	defer cancel()
	if err := socket.Write(ctx, websocket.MessageBinary, hello); err != nil {
		return nil, fmt.Errorf("sending hello: %w", link.Classify(ctx, err))
	}
	socket.SetReadLimit(-1) // bounded below, where the error can say so
	kind, r, err := socket.Reader(ctx)
	if err != nil {
		return nil, fmt.Errorf("waiting for the attestation document: %w", link.Classify(ctx, err))
	}
	if kind != websocket.MessageBinary {
		return nil, fmt.Errorf("%w: it sent text where the sealed protocol has bytes", link.ErrProtocol)
	}
	message, err := io.ReadAll(io.LimitReader(r, wire.MaxAttest+1))
	if err != nil {
		return nil, fmt.Errorf("waiting for the attestation document: %w", link.Classify(ctx, err))
	}
	if len(message) > wire.MaxAttest {
		return nil, fmt.Errorf("%w: its answer has more than %d bytes", link.ErrTooLarge, wire.MaxAttest)
	}
	return message, nil
}

// refusal classes what is wrong with an answer that was not even looked at.
func refusal(err error) error {
	var remote *wire.RemoteError
	switch {
	case errors.As(err, &remote):
		return &link.RemoteError{Code: remote.Code, Text: remote.Text}
	case errors.Is(err, wire.ErrMalformed):
		return fmt.Errorf("%w: %w", link.ErrProtocol, err)
	}
	return err
}
