package session

import (
	"context"
	"crypto/x509"
	"encoding/json"
	"fmt"
	"net/http"

	"github.com/cape-functions/cape/core/seal"
	"github.com/cape-functions/cape/core/wire"
	"github.com/cape-functions/cape/enclave/internal/nsm"
	"github.com/cape-functions/cape/enclave/internal/token"
	"github.com/cape-functions/cape/enclave/internal/vault"
)

// enter checks what every route needs before the upgrade: an offer, a token that may does
// accept, and a place for its user.
func (v *visit) enter(ctx context.Context, r *http.Request, may func(context.Context, string) (*token.Claims, *fault)) (protocols, *token.Claims, *fault) {
	p, f := parseProtocols(r.Header)
	if f != nil {
		return p, nil, f
	}
	claims, f := may(ctx, p.token)
	if f == nil {
		f = v.admit(vault.LegacyUser(claims.Subject))
	}
	return p, claims, f
}

// managed serves a route for a user's own login, who on some must have a name.
func (s *Server) managed(named bool, talk func(context.Context, *channel, *token.Claims) error) visitor {
	return func(ctx context.Context, v *visit, w http.ResponseWriter, r *http.Request) {
		p, claims, f := v.enter(ctx, r, s.manager)
		if f == nil && named && claims.Username == "" {
			f = noUsername()
		}
		if f != nil {
			v.refuse(w, f)
			return
		}
		v.converse(ctx, w, r, p.chosen, func(ctx context.Context, c *channel) error { return talk(ctx, c, claims) })
	}
}

// nonceV1 reads the message that opens every session.
func (c *channel) nonceV1() ([]byte, error) {
	var start wire.StartV1
	if err := c.receive(&start); err != nil {
		return nil, err
	}
	if n := len(start.Nonce); n < wire.MinNonce || n > wire.MaxNonce {
		return nil, fatal(wire.CodeInvalidRequest, fmt.Sprintf("a nonce of %d bytes", n),
			fmt.Sprintf("send %d to %d random bytes", wire.MinNonce, wire.MaxNonce))
	}
	return start.Nonce, nil
}

// attestV1 makes a fresh session key and the document that proves it.
func (s *Server) attestV1(nonce []byte, data wire.UserDataV1) (doc []byte, key *seal.SessionKey, err error) {
	key, err = seal.NewSessionKey()
	if err != nil {
		return nil, nil, err
	}
	userData, err := json.Marshal(data)
	if err != nil {
		return nil, nil, fmt.Errorf("encoding user data: %w", err)
	}
	if len(userData) > wire.MaxUserData {
		return nil, nil, fmt.Errorf("encoding user data: %d bytes", len(userData))
	}
	doc, err = s.cfg.NSM.Attest(nsm.Request{Nonce: nonce, UserData: userData, PublicKey: key.Public()})
	if err != nil {
		return nil, nil, fmt.Errorf("attesting: %w", err)
	}
	return doc, key, nil
}

// introduce answers the nonce with a document.
func (c *channel) introduce(nonce []byte, data wire.UserDataV1) (*seal.SessionKey, error) {
	doc, key, err := c.v.s.attestV1(nonce, data)
	if err != nil {
		return nil, err
	}
	return key, c.send(wire.AttestationV1{Type: wire.TypeAttestation, Message: doc})
}

// introduceSigner names the key in the document, too, that signs results.
func (c *channel) introduceSigner(nonce []byte, data wire.UserDataV1) (*seal.SessionKey, error) {
	signer, err := c.v.s.cfg.SigningKey()
	if err != nil {
		return nil, fmt.Errorf("making the signing key: %w", err)
	}
	data.SignatureKey = x509.MarshalPKCS1PublicKey(&signer.PublicKey)
	return c.introduce(nonce, data)
}
