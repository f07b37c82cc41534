package client

import (
	"bytes"
	"context"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/x509"
	"encoding/pem"
	"fmt"
	"io"
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
	// Account is whose key it is; nil in v1, whose keys belong to users. User is the name
	// under which the account was asked for in v2, empty for one's own.
	Account *[32]byte
	User    string
	// Document is the attestation document that vouches for the key, and Nonce what it
	// answers: empty in v1 for another user's key, whose document the server had stored.
	Document, Nonce []byte
	// Config is what the document says that the enclave runs under; nil in v1.
	Config []byte
	// Evidence tells how the document was checked.
	Evidence *attest.Evidence
}

// PEM returns the key as "PUBLIC KEY".
func (k *CapeKey) PEM() []byte {
	return pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: k.DER})
}

// Encrypt seals data so that only the key's owner, or functions of the owner, can open it.
// The result is text, and may be given to a function as its input. A key of an account
// makes the streaming form for its owner (see Seal), a key of v1 the old one.
func (k *CapeKey) Encrypt(plaintext []byte) ([]byte, error) {
	if k.Account == nil {
		return envelope.SealOld(k.Public, plaintext, false) // v1 enclaves open this form alone
	}
	var out bytes.Buffer
	w, err := k.Seal(&out, envelope.ForOwner(), true)
	if err != nil {
		return nil, err
	}
	_, err = w.Write(plaintext)
	if end := w.Close(); err == nil {
		err = end
	}
	if err != nil {
		return nil, err
	}
	return out.Bytes(), nil
}

// Seal starts an envelope on w, as text or as bytes, which the enclave opens for the one
// function that to names, or for the key's owner. What is written to the result is
// encrypted in constant memory; Close writes the end, without which nothing opens. Errors
// match ErrAccount for a key of v1, which opens the old form alone.
func (k *CapeKey) Seal(w io.Writer, to envelope.To, text bool) (io.WriteCloser, error) {
	if k.Account == nil {
		return nil, fmt.Errorf("%w: this Cape Key belongs to none, and opens the old form alone", ErrAccount)
	}
	return envelope.NewWriter(w, k.Public, to, text)
}

// Key returns the caller's own Cape Key. The enclave makes one at the first call.
func (c *Client) Key(ctx context.Context) (*CapeKey, error) {
	if c.protocol == ProtocolV2 {
		return c.ownKey(ctx)
	}
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

// UserKey returns another user's Cape Key. In v2 the document names the account, about which
// Trust is asked. In v1 it answers no nonce of ours, and nothing in it names the user: the
// server says whose key it is.
func (c *Client) UserKey(ctx context.Context, username string) (*CapeKey, error) {
	if !wire.ValidUsername(username) {
		return nil, fmt.Errorf("%w: %.100q is not a username", ErrFunction, username)
	}
	if c.protocol == ProtocolV2 {
		return c.keyOfUser(ctx, username)
	}
	var answer struct {
		Document []byte `json:"attestation_document"`
	}
	err := c.link.JSON(ctx, link.Request{Method: http.MethodGet, Segments: []string{"v1", "user", username, "key"},
		NoToken: true, Limit: 4 * nitro.MaxDocument}, &answer)
	if err != nil {
		return nil, err
	}
	return c.StoredKey(ctx, &CapeKey{Document: answer.Document})
}

// StoredKey verifies a key that was kept, at its document's own time, as Trust says now. Of
// kept it looks at Document and Nonce, and in v2 at DER, Config, and User or Account: whose
// it must be. What it returns was vouched for.
func (c *Client) StoredKey(ctx context.Context, kept *CapeKey) (*CapeKey, error) {
	if c.protocol == ProtocolV2 {
		return c.storedSealedKey(ctx, kept)
	}
	contact := c.contact(v1.Key, kept.Document, kept.Nonce)
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
	key.Nonce = kept.Nonce
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

func isSum(sum, of []byte) bool {
	want := sha256.Sum256(of)
	return bytes.Equal(sum, want[:])
}
