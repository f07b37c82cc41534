package client

import (
	"context"
	"crypto/rsa"
	"crypto/x509"
	"encoding/pem"
	"fmt"
	"net/http"

	"github.com/cape-functions/cape/client/internal/link"
	v1 "github.com/cape-functions/cape/client/internal/v1"
	"github.com/cape-functions/cape/core/attest"
	"github.com/cape-functions/cape/core/attest/nitro"
	"github.com/cape-functions/cape/core/envelope"
	"github.com/cape-functions/cape/core/wire"
)

// Sizes of a Cape Key in bits.
const (
	minKeyBits = 2048
	maxKeyBits = 4096
)

// CapeKey is an account's public key, as an attested enclave vouched for it.
type CapeKey struct {
	// Public is RSA; only enclaves have the private half.
	Public *rsa.PublicKey
	// DER is Public as SubjectPublicKeyInfo.
	DER []byte
	// Document is the attestation document that holds the key, and Nonce what it
	// answers: empty for another user's key, whose document the server had stored.
	Document, Nonce []byte
	// Evidence tells how the document was checked.
	Evidence *attest.Evidence
}

// PEM returns the key as "PUBLIC KEY".
func (k *CapeKey) PEM() []byte {
	return pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: k.DER})
}

// Encrypt seals data so that only functions of the key's owner can open it. The result
// is text, and may be given to a function as its input.
func (k *CapeKey) Encrypt(plaintext []byte) ([]byte, error) {
	return envelope.SealOld(k.Public, plaintext, false) // v1 enclaves open this form alone
}

// Key returns the caller's own Cape Key. The enclave makes one at the first call.
func (c *Client) Key(ctx context.Context) (*CapeKey, error) {
	s, err := c.open(ctx, v1.Key, "v1", "key")
	if err != nil {
		return nil, err
	}
	defer s.Close()
	key, err := parseKey(s.Evidence(), s.Claims().CapeKey)
	if err != nil {
		return nil, err
	}
	key.Nonce = s.Nonce()
	return key, nil
}

// UserKey returns another user's Cape Key. Its document answers no nonce of ours, and
// nothing in it names the user: the server says whose key it is.
func (c *Client) UserKey(ctx context.Context, username string) (*CapeKey, error) {
	if !wire.ValidUsername(username) {
		return nil, fmt.Errorf("%w: %.100q is not a username", ErrFunction, username)
	}
	var answer struct {
		Document []byte `json:"attestation_document"`
	}
	err := c.link.JSON(ctx, link.Request{Method: http.MethodGet, Segments: []string{"v1", "user", username, "key"},
		NoToken: true, Limit: 4 * nitro.MaxDocument}, &answer)
	if err != nil {
		return nil, err
	}
	return c.StoredKey(ctx, answer.Document, nil)
}

// StoredKey verifies a key document that was kept, at its own time, as Trust says now.
// The nonce is that of [CapeKey], empty if it had none.
func (c *Client) StoredKey(ctx context.Context, document, nonce []byte) (*CapeKey, error) {
	contact := c.contact(v1.Key, document, nonce)
	contact.Archived = true
	ev, err := c.judge.Enclave(ctx, contact)
	if err != nil {
		return nil, attestation(err)
	}
	claims, err := v1.ParseClaims(v1.Key, ev.Document)
	if err != nil {
		return nil, attestation(err)
	}
	key, err := parseKey(ev, claims.CapeKey)
	if err != nil {
		return nil, err
	}
	key.Nonce = nonce
	return key, nil
}

func parseKey(ev *attest.Evidence, der []byte) (*CapeKey, error) {
	parsed, err := x509.ParsePKIXPublicKey(der)
	if err != nil {
		return nil, attestation(fmt.Errorf("%w: the Cape Key cannot be read", attest.ErrField))
	}
	public, ok := parsed.(*rsa.PublicKey)
	if !ok || public.N.BitLen() < minKeyBits || public.N.BitLen() > maxKeyBits {
		return nil, attestation(fmt.Errorf("%w: the Cape Key is not RSA of %d to %d bits", attest.ErrField, minKeyBits, maxKeyBits))
	}
	return &CapeKey{Public: public, DER: der, Document: ev.Raw, Evidence: ev}, nil
}
