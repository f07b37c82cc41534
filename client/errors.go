package client

import (
	"errors"
	"fmt"

	"github.com/cape-functions/cape/client/internal/link"
	v2 "github.com/cape-functions/cape/client/internal/v2"
	"github.com/cape-functions/cape/client/trust"
	"github.com/cape-functions/cape/core/seal"
)

// What callers test for, with errors.Is.
var (
	// ErrAttestation: the enclave's document was refused. The error also matches one of
	// the classes of package attest.
	ErrAttestation = errors.New("attestation refused")
	// ErrTrust: the document is sound, but the server, its enclave or the function is
	// not one that is trusted. See trust.Change, trust.Unknown and trust.UnknownRoot.
	ErrTrust = trust.ErrTrust
	// ErrChecksum: the function is not the pinned one, or a result is not what the
	// attested enclave computed from what was sent.
	ErrChecksum = link.ErrChecksum
	// ErrPinned: function, account or key policy is not the one that the call pins; nothing
	// was sent. It matches ErrChecksum, too.
	ErrPinned = fmt.Errorf("%w: not what was pinned", ErrChecksum)
	// ErrUnreachable: no connection to the server, or none that TLS accepts.
	ErrUnreachable = link.ErrUnreachable
	// ErrRedirect: the server sent the client somewhere it does not go.
	ErrRedirect = link.ErrRedirect
	// ErrProtocol: the server does not speak the protocol.
	ErrProtocol = link.ErrProtocol
	// ErrToken: there is no token, or none that can be sent.
	ErrToken = link.ErrToken
	// ErrClosed: the connection ended before the answer came, or is not open any more:
	// servers close sessions that were idle for 60 seconds.
	ErrClosed = link.ErrClosed
	// ErrStalled: the server has stopped answering.
	ErrStalled = link.ErrStalled
	// ErrTooLarge: an input, function or result is over its limit.
	ErrTooLarge = link.ErrTooLarge
	// ErrFunction: the text does not name a function.
	ErrFunction = errors.New("not a function id (22 characters) or user/name")
	// ErrPackage: the folder or zip cannot be deployed.
	ErrPackage = errors.New("not a function that can be deployed")
	// ErrTLS: the enclave ends TLS itself, and the connection ends elsewhere.
	ErrTLS = v2.ErrTLS
	// ErrDowngrade: the server does not speak the sealed protocol, or chose a weaker key
	// exchange than was offered. It may be old, or somebody is in the way.
	ErrDowngrade = errors.New("sealed protocol refused")
	// ErrAccount: the call needs an account key, of the caller or of somebody else, that is
	// not there.
	ErrAccount = errors.New("no account key")
	// ErrReceipt: a receipt does not prove what it is to prove.
	ErrReceipt = seal.ErrReceipt
	// ErrOptions: the client cannot be used as it was set up.
	ErrOptions = errors.New("unusable options")
)

// RemoteError is an error that the server reported, found with errors.As. Its Code is
// one of package wire's; its texts are untrusted.
type RemoteError = link.RemoteError

// attestation marks refusals of a document, and of what it is to vouch for, as
// ErrAttestation, and a weaker key exchange as ErrDowngrade.
func attestation(err error) error {
	switch {
	case err == nil:
		return nil
	case errors.Is(err, seal.ErrKEM):
		return fmt.Errorf("%w: %w", ErrDowngrade, err)
	case errors.Is(err, ErrTrust):
		return err
	case trust.IsAttestation(err), errors.Is(err, seal.ErrBinding), errors.Is(err, seal.ErrTrust), errors.Is(err, ErrTLS):
		return fmt.Errorf("%w: %w", ErrAttestation, err)
	}
	return err
}
