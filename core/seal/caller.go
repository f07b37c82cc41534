package seal

import (
	"bytes"
	"crypto/rand"
	"fmt"

	"github.com/cape-functions/cape/core/attest"
	"github.com/cape-functions/cape/core/keypolicy"
	"github.com/cape-functions/cape/core/wire"
)

// Caller is the client's side of one v2 handshake. Its steps are NewCaller, Receive, Bind,
// Open, in this order and each once; between Receive and Bind the caller verifies the
// document with package attest, with Nonce in the policy. It is not safe for concurrent use.
type Caller struct {
	// Births remembers birth documents from one session to the next; nil remembers nothing.
	Births *keypolicy.Births

	request wire.Hello
	hello   []byte
	message []byte // the attest as received
	attest  *wire.Attest
	bound   bool
	done    bool
}

// NewCaller begins a session on a route, the path that is requested. It offers X-Wing alone
// unless kems says otherwise; whoever can do X-Wing has no reason to offer less.
func NewCaller(route string, kems ...wire.KEM) (*Caller, error) {
	if len(kems) == 0 {
		kems = []wire.KEM{wire.KEMXWing}
	}
	c := &Caller{request: wire.Hello{V: 2, Use: wire.UseSession, Nonce: freshNonce(), KEMs: kems, Route: route}}
	var err error
	if c.hello, err = c.request.Encode(); err != nil {
		return nil, err
	}
	if choose(kems) == 0 {
		return nil, ErrKEM
	}
	return c, nil
}

func freshNonce() []byte {
	nonce := make([]byte, wire.NonceSize)
	rand.Read(nonce)
	return nonce
}

// Hello returns the first frame to send.
func (c *Caller) Hello() []byte { return bytes.Clone(c.hello) }

// Nonce returns the nonce that the document must hold.
func (c *Caller) Nonce() []byte { return bytes.Clone(c.request.Nonce) }

// Receive takes the enclave's answer. Nothing in it counts before Bind. Errors:
// *wire.RemoteError when somebody refused, wire.ErrMalformed, ErrKEM.
func (c *Caller) Receive(message []byte) (*wire.Attest, error) {
	if c.attest != nil {
		return nil, ErrOrder
	}
	a, err := wire.ParseAttest(message)
	if err != nil {
		return nil, err
	}
	if a.KEM != choose(c.request.KEMs) {
		return nil, ErrKEM
	}
	c.attest, c.message = a, bytes.Clone(message)
	return a, nil
}

// Bind checks that evidence, which package attest verified under the caller's policy, is of
// the document received, and vouches for the session key, configuration, key policy and key.
// Roots are those of the policy. Whether that trust, key and policy are the ones the user
// accepted is the caller's to compare. Errors: ErrBinding, ErrTrust.
func (c *Caller) Bind(evidence *attest.Evidence, roots ...[]byte) (*Attested, error) {
	if c.attest == nil || c.bound {
		return nil, ErrOrder
	}
	a := c.attest
	claim, err := wire.ParseSessionClaim(evidence.Document.UserData)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrBinding, err)
	}
	if claim.KEM != a.KEM || !isHash(claim.PK, a.PublicKey) {
		return nil, fmt.Errorf("%w: it is for another session key", ErrBinding)
	}
	bound := binding{document: a.Document, config: a.Config, policy: a.Policy, birth: a.Birth,
		nonce: c.request.Nonce, claimPolicy: claim.Policy, claimConfig: claim.Config, tls: claim.TLS, births: c.Births}
	attested, err := bound.check(evidence, roots)
	if err != nil {
		return nil, err
	}
	if attested.ReceiptKey, err = receiptKey(evidence.Document.PublicKey); err != nil {
		return nil, err
	}
	attested.Route = c.request.Route
	c.bound = true
	return attested, nil
}

// Open seals o to the enclave and returns the frame to send and the session's records.
// Errors: ErrOrder before Bind, wire.ErrMalformed, ErrPublicKey.
func (c *Caller) Open(o Opening) ([]byte, *Channel, error) {
	if !c.bound || c.done {
		return nil, nil, ErrOrder
	}
	c.done = true
	kem, err := kemOf(c.attest.KEM)
	if err != nil {
		return nil, nil, err
	}
	pub, err := kem.NewPublicKey(c.attest.PublicKey)
	if err != nil {
		return nil, nil, fmt.Errorf("%w: %w", ErrPublicKey, err)
	}
	transcript := transcriptOf(c.hello, c.message)
	sessionSecret := make([]byte, secretSize)
	rand.Read(sessionSecret)
	frame, err := sealOpen(pub, transcript, o, sessionSecret)
	if err != nil {
		return nil, nil, err
	}
	channel, err := newChannel(transcript, sessionSecret, true)
	if err != nil {
		return nil, nil, err
	}
	return frame, channel, nil
}

// KeyCaller is the client's side of asking for a Cape Key: NewKeyCaller, Receive, Bind.
type KeyCaller struct {
	Births *keypolicy.Births // as a Caller's

	request wire.Hello
	hello   []byte
	attest  *wire.KeyAttest
}

// NewKeyCaller asks on a route for the Cape Key of whom of names.
func NewKeyCaller(route string, of wire.KeyOf) (*KeyCaller, error) {
	c := &KeyCaller{request: wire.Hello{V: 2, Use: wire.UseKey, Nonce: freshNonce(), Route: route, Of: &of}}
	var err error
	if c.hello, err = c.request.Encode(); err != nil {
		return nil, err
	}
	return c, nil
}

// Hello returns the frame to send.
func (c *KeyCaller) Hello() []byte { return bytes.Clone(c.hello) }

// Nonce returns the nonce that the document must hold.
func (c *KeyCaller) Nonce() []byte { return bytes.Clone(c.request.Nonce) }

// Receive takes the enclave's answer. Nothing in it counts before Bind.
func (c *KeyCaller) Receive(message []byte) (*wire.KeyAttest, error) {
	if c.attest != nil {
		return nil, ErrOrder
	}
	a, err := wire.ParseKeyAttest(message)
	if err != nil {
		return nil, err
	}
	c.attest = a
	return a, nil
}

// Bind is Caller.Bind for a Cape Key. An account that was asked for must be the document's;
// the account of a user name is what the enclave says, for the caller to compare or show.
func (c *KeyCaller) Bind(evidence *attest.Evidence, roots ...[]byte) (*AttestedKey, error) {
	if c.attest == nil {
		return nil, ErrOrder
	}
	a, of := c.attest, c.request.Of
	claim, err := wire.ParseKeyClaim(evidence.Document.UserData)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrBinding, err)
	}
	if !isHash(claim.CK, a.SPKI) || (of.Acct != nil && !bytes.Equal(of.Acct, claim.Acct)) ||
		(of.User == "") != (claim.User == nil) || (claim.User != nil && *claim.User != of.User) {
		return nil, fmt.Errorf("%w: it is for another Cape Key", ErrBinding)
	}
	if len(evidence.Document.PublicKey) != 0 {
		return nil, fmt.Errorf("%w: it holds a public key", ErrBinding)
	}
	bound := binding{document: a.Document, config: a.Config, policy: a.Policy, birth: a.Birth,
		nonce: c.request.Nonce, claimPolicy: claim.Policy, claimConfig: claim.Config, tls: claim.TLS, births: c.Births}
	attested, err := bound.check(evidence, roots)
	if err != nil {
		return nil, err
	}
	attested.Route = c.request.Route
	return &AttestedKey{Attested: *attested, SPKI: a.SPKI, Acct: claim.Acct}, nil
}
