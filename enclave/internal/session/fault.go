package session

import (
	"context"
	"encoding/json"
	"errors"
	"net/http"

	"github.com/cape-functions/cape/core/account"
	"github.com/cape-functions/cape/core/envelope"
	"github.com/cape-functions/cape/core/flow"
	"github.com/cape-functions/cape/core/seal"
	"github.com/cape-functions/cape/core/wire"
	"github.com/cape-functions/cape/enclave/internal/handler"
	"github.com/cape-functions/cape/enclave/internal/intake"
	"github.com/cape-functions/cape/enclave/internal/token"
	"github.com/cape-functions/cape/enclave/internal/vault"
)

// fault is an error as a caller may see it: a code of wire's, what happened, and what to do.
type fault struct {
	code, text, hint string
	// fatal: the session cannot go on after it.
	fatal bool
}

func (f *fault) Error() string { return f.code + ": " + f.text }

// line is the fault's text for v1, where hint and text share one string.
func (f *fault) line() string {
	if f.hint == "" {
		return f.text
	}
	return f.text + "; " + f.hint
}

func newFault(code, text, hint string) *fault { return &fault{code: code, text: text, hint: hint} }

func fatal(code, text, hint string) *fault {
	return &fault{code: code, text: text, hint: hint, fatal: true}
}

// told is a fault that the client was told of already.
type told struct{ *fault }

func (t told) Unwrap() error { return t.fault }

// errDeployInput: an input of the old form is somebody's recorded deploy.
var errDeployInput = errors.New("the Cape-encrypted input is a deployed function, not an input")

// errRecipient: the envelope does not name this function.
var errRecipient = errors.New("the Cape-encrypted input is not meant for this function")

// errNoKey: the owner has no Cape Key, so nothing can be sealed to it.
var errNoKey = errors.New("the function's owner has no Cape Key yet")

// errMemory: the buffers of all sessions together are full.
var errMemory = errors.New("no memory left for another large message")

// notFound is the same for what is missing and for what may not be seen.
func notFound() *fault {
	return newFault(wire.CodeNotFound, "there is no such function, or it is not yours", "check the id or the name with: cape list")
}

func unavailable() *fault {
	return newFault(wire.CodeUnavailable, "the enclave does not serve at the moment", "try again later")
}

// rule maps errors to what is shown.
type rule struct {
	err   error
	fault fault
}

// rules are tried in order: the first that matches decides.
func rules() []rule {
	const again = "try again later"
	return []rule{
		{token.ErrUnavailable, fault{wire.CodeUnavailable, token.ErrUnavailable.Error(), again, true}},
		{vault.ErrNotFound, *notFound()},
		{vault.ErrCorrupt, fault{wire.CodeInternal, "what the host stored for this function or account is not what the enclave gave it, and is refused",
			"deploy the function again; if that does not help, tell the operator", true}},
		{vault.ErrNoRoom, fault{wire.CodeUnavailable, "the enclave has no memory left for this function", again, true}},
		{vault.ErrUnavailable, fault{wire.CodeUnavailable, "storage or key service cannot be reached", again, true}},
		{errMemory, fault{wire.CodeUnavailable, "the enclave has no memory left for a message of this size", again, true}},
		{errLimit, fault{wire.CodeTooLarge, errLimit.Error(), "send less at once", false}},
		{handler.ErrTimeout, fault{wire.CodeTimeout, "the function took too long: its limit of time is over", "give it less to do in one call, or more `time` in its cape.toml", true}},
		{handler.ErrOutOfMemory, fault{wire.CodeOutOfMemory, "the function ran out of its limit of memory", "give it less to do in one call, or more `memory` in its cape.toml", true}},
		{handler.ErrResultTooLarge, fault{wire.CodeTooLarge, "the result is larger than the function's limit of output",
			"split the work over several calls, or give it more `output` in its cape.toml", false}},
		{handler.ErrTooLarge, fault{wire.CodeTooLarge, "the input is larger than allowed", "split it over several calls", false}},
		{handler.ErrEnded, fault{wire.CodeFunctionError, "the function's process ended before it returned a result",
			"the function must not exit, crash, or touch descriptors but 0 to 2 and those it opens: run it with cape test", true}},
		{seal.ErrFrame, fault{wire.CodeInvalidRequest, seal.ErrFrame.Error(), "seal it to the session key of this connection", false}},
		{seal.ErrOpen, fault{wire.CodeInvalidRequest, seal.ErrOpen.Error(), "seal it to the session key of this connection", false}},
		{errDeployInput, fault{wire.CodeInvalidRequest, errDeployInput.Error(), "encrypt data, not functions, as inputs", false}},
		{envelope.ErrKey, fault{wire.CodeInvalidRequest, "the Cape-encrypted input is sealed to a key that this session may not use",
			"encrypt it for the function's owner; what is sealed to an account opens in sessions of its own account key", false}},
		{errRecipient, fault{wire.CodeInvalidRequest, "the Cape-encrypted input is meant for another function or for its owner alone",
			"encrypt it to this function", false}},
		{errNoKey, fault{wire.CodeInvalidRequest, errNoKey.Error(), "let the owner fetch it first: cape key", false}},
		{envelope.ErrTruncated, fault{wire.CodeInvalidRequest, "the Cape-encrypted input is cut short", "send all of it", false}},
		{envelope.ErrDamaged, fault{wire.CodeInvalidRequest, "the Cape-encrypted input does not open: it is sealed to another key, or was changed",
			"encrypt it for the function's owner", false}},
		{envelope.ErrFormat, fault{wire.CodeInvalidRequest, "the input begins with cape: and is no Cape envelope",
			"inputs that begin with cape: are always taken for Cape-encrypted ones", false}},
		{errCancelled, fault{wire.CodeUnavailable, "the invocation was cancelled, and the session with it", "connect again", true}},
		{account.ErrManifest, fault{wire.CodeInvalidFunction, account.ErrManifest.Error(), "sign it with the account key that opens the session", true}},
		{account.ErrAuthority, fault{wire.CodeUnauthorized, account.ErrAuthority.Error(), "connect again", true}},
		{seal.ErrRoute, fault{wire.CodeInvalidRequest, seal.ErrRoute.Error(), "connect again, and find out who changed the request", true}},
		{seal.ErrKEM, fault{wire.CodeInvalidRequest, "none of the offered key exchanges is known here", "offer X-Wing (0x647a)", true}},
		{seal.ErrUse, fault{wire.CodeInvalidRequest, seal.ErrUse.Error(), "see the protocol", true}},
		{seal.ErrRecord, fault{wire.CodeInvalidRequest, seal.ErrRecord.Error(), "connect again", true}},
		{seal.ErrExhausted, fault{wire.CodeTooLarge, seal.ErrExhausted.Error(), "connect again", true}},
		{flow.ErrFlow, fault{wire.CodeInvalidRequest, flow.ErrFlow.Error(), "see the protocol's rules of ids and credit", true}},
		{wire.ErrMalformed, fault{wire.CodeInvalidRequest, "a message is not of the form that the protocol gives it", "see the protocol", true}},
		{seal.ErrEmpty, fault{wire.CodeInvalidRequest, seal.ErrEmpty.Error(), "see the protocol", true}},
		{context.DeadlineExceeded, fault{wire.CodeUnavailable, "it took too long", again, true}},
		{context.Canceled, fault{wire.CodeUnavailable, "the session was ended", again, true}},
	}
}

// faultOf decides what a caller sees of err. Nothing of an unknown error is shown.
func faultOf(err error) *fault {
	var f *fault
	if errors.As(err, &f) {
		return f
	}
	var host *vault.HostError
	if errors.As(err, &host) {
		return hostFault(host)
	}
	if errors.Is(err, intake.ErrInvalid) { // its text is meant for whoever deploys
		return &fault{wire.CodeInvalidFunction, err.Error(), "", true}
	}
	for _, r := range rules() {
		if errors.Is(err, r.err) {
			return &r.fault
		}
	}
	return fatal(wire.CodeInternal, "something went wrong inside the enclave", "try again; if it stays, tell the operator")
}

func hostFault(h *vault.HostError) *fault {
	switch h.Code {
	case wire.CodeQuota:
		return fatal(wire.CodeQuota, "the server has no room left for this function", "delete functions that are not needed any more, or ask the operator for room")
	case wire.CodeTooLarge:
		return fatal(wire.CodeTooLarge, "the server does not store functions of this size", "make the deploy folder smaller")
	}
	return fatal(wire.CodeUnavailable, "the server's storage refused or failed", "try again later; if it stays, tell the operator")
}

// tokenFault is the answer to a token that was refused. Its text holds the phrase that
// published clients look for when the token is expired.
func tokenFault(err error) *fault {
	if errors.Is(err, token.ErrUnavailable) || errors.Is(err, context.Canceled) {
		return faultOf(err)
	}
	for _, known := range []error{token.ErrExpired, token.ErrMalformed, token.ErrIssuer, token.ErrKey, token.ErrSignature,
		token.ErrClaims, token.ErrAudience, token.ErrNotYet} {
		if errors.Is(err, known) {
			return fatal(wire.CodeUnauthorized, known.Error(), "get a fresh token from the platform's identity provider; a running caped dev renews its own")
		}
	}
	return faultOf(err)
}

// functionFault is what a caller sees of an exception: the owner also gets the traceback.
func functionFault(e *handler.FunctionError, owner bool) *fault {
	text := e.Error()
	if owner && e.Traceback != "" {
		text += "\n" + e.Traceback
	}
	return &fault{code: wire.CodeFunctionError, text: text}
}

// writeFault answers a plain request.
func writeFault(w http.ResponseWriter, f *fault) {
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(wire.Status(f.code))
	// A client that is gone has nobody to tell.
	_ = json.NewEncoder(w).Encode(wire.ErrorBody{Error: f.text, Message: f.hint, Code: f.code})
}
