package trust

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/cape-functions/cape/core/attest"
	"github.com/cape-functions/cape/core/attest/chain"
	"github.com/cape-functions/cape/core/attest/nitro"
	"github.com/cape-functions/cape/core/wire"
)

// ErrTrust is matched by every refusal of this package that is not a defect of the
// document itself: an unknown server, a changed one, changed code.
var ErrTrust = errors.New("not trusted")

// Contact is one attestation document that a server sent.
type Contact struct {
	// Origin is the server as the user named it, in the form of [Origin]: never the
	// target of a redirect.
	Origin string
	// Document is the COSE_Sign1 as received.
	Document []byte
	// Nonce is what the client sent. It may be empty only if Archived.
	Nonce []byte
	// Archived marks a document that the server had stored: it answers no nonce and is
	// checked at its own time.
	Archived bool
	// At is the time of the check.
	At time.Time
	// Verifier remembers certificate chains.
	Verifier *chain.Verifier
	// KeyPolicy is the SHA-256 of the key policy that the caller pinned in this very call, nil
	// for none: Claims refuses every other.
	KeyPolicy []byte
	// Claims reads what the protocol put into the verified document.
	Claims func(*attest.Evidence) (Claims, error)
}

// Claims are the parts of a verified document, and of what it commits to, that can be
// pinned.
type Claims struct {
	// KeyPolicy is the SHA-256 of the KMS key policy, 32 bytes; nil when this kind of
	// document does not carry it.
	KeyPolicy []byte
	// KMS is the ARN of the key that the policy is of; empty when this kind of document
	// does not tell.
	KMS string
	// Trust is the encoding of the runtime's trust, which PCR16 measures; nil when this
	// kind of document does not tell.
	Trust []byte
	// PCR0 and PCR8 are the images, and the signers of images, whose enclaves the KMS key
	// opens for, as the key policy lists them: an image must have one of each list. Empty
	// PCR0: every image of these signers. PCR8 is nil when this kind of document does not
	// come with the policy.
	PCR0, PCR8 []nitro.PCR
}

// Code says what a function name or id meant on this connection.
type Code struct {
	// Origin is the server as the user named it.
	Origin string
	// ID is the function id, if it is known.
	ID string
	// Name is "user/name", if it is known.
	Name string
	// Checksum is the attested SHA-256 of the function's zip.
	Checksum [32]byte
	// Manifest is what the enclave showed and the client verified; nil in v1, which
	// has none.
	Manifest *wire.Manifest
	// Pinned tells that the caller named account or code in this very call.
	Pinned bool
	// Deployed marks code that this client deployed itself just now: a new meaning of
	// the name is then no surprise.
	Deployed bool
}

// Expected is what a function must be, as far as it is known before the enclave says.
type Expected struct {
	// Checksum is that of the code, Account the one that signed it; nil: not known.
	Checksum, Account []byte
	// Seq is the lowest acceptable version, 0 if none is known.
	Seq uint64
}

// Holder says whose account an attested enclave named.
type Holder struct {
	// Origin is the server as the user named it.
	Origin string
	// User is the name that was asked for.
	User string
	// Account is the attested account.
	Account [32]byte
}

// Judge decides. Implementations are safe for concurrent use.
type Judge interface {
	// Enclave verifies a document and returns the evidence, or an error: one of
	// package attest's for a bad document, or one that matches ErrTrust.
	Enclave(context.Context, Contact) (*attest.Evidence, error)
	// Expected tells what is known of a function, by Code's Origin with ID or Name.
	Expected(context.Context, Code) (Expected, error)
	// Function is asked before an input is sent to the code, unless the enclave was
	// told what Expected said.
	Function(context.Context, Code) error
	// Recipient is asked before something is encrypted to an account that was found by a
	// username.
	Recipient(context.Context, Holder) error
}

// Difference is one value that is not what it was, or not what was asked for.
type Difference struct {
	// What names the value: "root", "PCR0", "key policy", "KMS key", "trust", "function ID",
	// "account of user/name", "account of user", "version of user/name", "the key opens for
	// PCR0" or PCR8: then New is an image or signer that is not among the accepted ones, Old.
	What string
	// Old are the accepted values and New the one that was found, lower hex. New is
	// "absent" when the document lacks it.
	Old []string
	New string
	// Stated tells that Old was asked for in this very call, not remembered.
	Stated bool
}

// Change is the refusal of a server or function that is not what was accepted before.
// It matches ErrTrust and what Cause matches.
type Change struct {
	Origin      string
	Differences []Difference
	// Cause is the attestation error that told of the change, if there was one.
	Cause error
}

// Error lists every difference, old and new.
func (c *Change) Error() string {
	var b strings.Builder
	fmt.Fprintf(&b, "%s is not what was trusted", c.Origin)
	for _, d := range c.Differences {
		was := "trusted until now"
		if d.Stated {
			was = "asked for"
		}
		fmt.Fprintf(&b, "\n  %s\n    %s: %s\n    found: %s", d.What, was, strings.Join(d.Old, " or "), d.New)
	}
	return b.String()
}

// Unwrap makes errors.Is see ErrTrust and the cause.
func (c *Change) Unwrap() []error {
	if c.Cause == nil {
		return []error{ErrTrust}
	}
	return []error{ErrTrust, c.Cause}
}

// Unknown is the refusal of a server that nobody vouched for yet.
type Unknown struct {
	Introduction
	// Declined tells that somebody was asked and said no.
	Declined bool
}

// Error says which server.
func (u *Unknown) Error() string {
	if u.Declined {
		return fmt.Sprintf("%s was not accepted", u.Origin)
	}
	return fmt.Sprintf("%s is not known yet, and nobody could be asked whether to trust it", u.Origin)
}

// Unwrap makes errors.Is see ErrTrust.
func (u *Unknown) Unwrap() error { return ErrTrust }

// UnknownAccount is the refusal of an account that nobody vouched for yet.
type UnknownAccount struct {
	Origin string
	// Name is what was asked for: "user/name" or a username.
	Name string
	// Account is the account found, lower hex, or wire.UnsignedAccount.
	Account string
	// Declined tells that somebody was asked and said no.
	Declined bool
}

// Error says which account.
func (u *UnknownAccount) Error() string {
	if u.Declined {
		return fmt.Sprintf("the account %s of %s was not accepted", u.Account, u.Name)
	}
	return fmt.Sprintf("%s belongs to the account %s, which is not known yet, and nobody could be asked whether to trust it", u.Name, u.Account)
}

// Unwrap makes errors.Is see ErrTrust.
func (u *UnknownAccount) Unwrap() error { return ErrTrust }

// UnknownRoot is the refusal of a root that is neither AWS's nor named by the user.
type UnknownRoot struct {
	Origin string
	// Root is the SHA-256 of the root that the server's document claims, lower hex.
	Root  string
	Cause error
}

// Error says which root.
func (u *UnknownRoot) Error() string {
	return fmt.Sprintf("%s shows enclaves under the root %s, which is not AWS's and was not named", u.Origin, u.Root)
}

// Unwrap makes errors.Is see ErrTrust and the cause.
func (u *UnknownRoot) Unwrap() []error { return []error{ErrTrust, u.Cause} }
