package seal

import (
	"bytes"
	"crypto/hpke"
	"crypto/sha256"
	"fmt"

	"github.com/cape-functions/cape/core/wire"
)

// Responder is the enclave's side of one v2 handshake: NewResponder, Claim, Attest, Open, in
// this order and each once. It is not safe for concurrent use.
type Responder struct {
	hello   []byte
	request *wire.Hello
	kem     wire.KEM
	key     hpke.PrivateKey // nil once Open was called
	public  []byte
	message []byte // the attest as sent
	doc     []byte // SHA-256 of the document in it
}

// NewResponder reads a hello for a session on route, the path of the request that is served,
// and makes the session's key by the strongest key exchange offered. Errors:
// wire.ErrMalformed, ErrUse, ErrRoute, ErrKEM.
func NewResponder(hello []byte, route string) (*Responder, error) {
	request, err := wire.ParseHello(hello)
	switch {
	case err != nil:
		return nil, err
	case request.Use != wire.UseSession:
		return nil, ErrUse
	case request.Route != route:
		return nil, ErrRoute
	}
	r := &Responder{hello: bytes.Clone(hello), request: request, kem: choose(request.KEMs)}
	kem, err := kemOf(r.kem)
	if err != nil {
		return nil, err
	}
	if r.key, err = kem.GenerateKey(); err != nil {
		return nil, fmt.Errorf("making session key: %w", err)
	}
	r.public = r.key.PublicKey().Bytes()
	return r, nil
}

// Nonce returns the caller's nonce, for the document.
func (r *Responder) Nonce() []byte { return bytes.Clone(r.request.Nonce) }

// Claim returns the document's user data for the exact bytes of configuration and key
// policy. TLS is SHA-256 of the SPKI of the enclave's TLS key, or nil.
func (r *Responder) Claim(config, policy, tls []byte) ([]byte, error) {
	return wire.Marshal(wire.SessionClaim{V: 2, Use: wire.UseSession, KEM: r.kem, PK: hashOf(r.public),
		Policy: hashOf(policy), Config: hashOf(config), TLS: tls})
}

// Attest returns the answer to the hello. It sets a's KEM and PublicKey.
func (r *Responder) Attest(a wire.Attest) ([]byte, error) {
	if r.message != nil {
		return nil, ErrOrder
	}
	a.KEM, a.PublicKey = r.kem, r.public
	message, err := a.Encode()
	if err != nil {
		return nil, err
	}
	r.message, r.doc = message, hashOf(a.Document)
	return bytes.Clone(message), nil
}

// Open opens the caller's open frame, verifies its authority, and returns the session's
// records. Whatever comes of it the session key is forgotten: there is one open a connection.
// Errors: ErrOrder, ErrOpen, ErrAuthority, wire.ErrMalformed.
func (r *Responder) Open(frame []byte) (*Opened, *Channel, error) {
	key := r.key
	r.key = nil
	if key == nil || r.message == nil {
		return nil, nil, ErrOrder
	}
	transcript := transcriptOf(r.hello, r.message)
	opened, sessionSecret, err := openOpen(key, transcript, frame)
	if err != nil {
		return nil, nil, err
	}
	channel, err := newChannel(transcript, sessionSecret, false)
	if err != nil {
		return nil, nil, err
	}
	return opened, channel, nil
}

// KeyClaim returns the user data of a Cape Key's document, for a hello that asked for it.
// Acct is the account that the key is of, nil for a legacy key.
func KeyClaim(h *wire.Hello, acct, spki, config, policy, tls []byte) ([]byte, error) {
	if h.Use != wire.UseKey {
		return nil, ErrUse
	}
	c := wire.KeyClaim{V: 2, Use: wire.UseKey, Acct: acct, CK: hashOf(spki), Policy: hashOf(policy), Config: hashOf(config), TLS: tls}
	if h.Of.User != "" {
		c.User = &h.Of.User
	}
	return wire.Marshal(c)
}

func hashOf(b []byte) []byte {
	sum := sha256.Sum256(b)
	return sum[:]
}
