package session

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"time"

	"github.com/cape-functions/cape/core/seal"
	"github.com/cape-functions/cape/core/wire"
	"github.com/cape-functions/cape/enclave/internal/nsm"
	"github.com/cape-functions/cape/enclave/internal/token"
)

// enter checks what every WebSocket route needs before the upgrade: an offer and a token that
// may does accept.
func (v *visit) enter(ctx context.Context, r *http.Request, may func(context.Context, string) (*token.Claims, *fault)) (protocols, *token.Claims, *fault) {
	if !isUpgrade(r) {
		return protocols{}, nil, newFault(wire.CodeInvalidRequest, "this route is a WebSocket", "connect with a Cape client")
	}
	p, f := parseProtocols(r.Header)
	if f != nil {
		return p, nil, f
	}
	claims, f := may(ctx, p.token)
	return p, claims, f
}

// converse upgrades and holds one v1 session. It reports whether there was one.
func (v *visit) converse(ctx context.Context, w http.ResponseWriter, r *http.Request, chosen string, talk func(context.Context, *channel) error) bool {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	c, ok := v.open(ctx, w, r, chosen)
	if !ok {
		return false
	}
	defer v.recover(func() { c.raw.Close() })
	began := time.Now()
	c.finish(talk(ctx, c), began)
	return true
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
