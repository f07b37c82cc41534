package wire

import (
	"crypto/sha256"
	"fmt"
	"strings"
)

// Attest answers a hello for a session. Nothing in it counts before the document in it was
// verified and its claim compared: package seal does both.
type Attest struct {
	KEM       KEM    `cbor:"kem"`
	PublicKey []byte `cbor:"public_key"` // the session's, serialized as its KEM does
	Document  []byte `cbor:"document"`
	Config    []byte `cbor:"config"`  // exact bytes of Config
	Policy    []byte `cbor:"policy"`  // exact bytes of GetKeyPolicy
	Birth     []byte `cbor:"birth"`   // birth document of the KEK
	SkewMS    int64  `cbor:"skew_ms"` // the enclave's clock minus the security module's; for people
}

// KeyAttest answers a hello for a Cape Key; then the connection closes.
type KeyAttest struct {
	Document []byte `cbor:"document"`
	Config   []byte `cbor:"config"`
	Policy   []byte `cbor:"policy"`
	Birth    []byte `cbor:"birth"`
	SkewMS   int64  `cbor:"skew_ms"`
	SPKI     []byte `cbor:"spki"` // PKIX DER of the Cape Key
}

// refusal stands where an attest should. It is in clear and anybody may have written it.
type refusal struct {
	Error struct {
		Code    string `cbor:"code"`
		Message string `cbor:"message"`
	} `cbor:"error"`
}

// EncodeRefusal returns {"error": {"code", "message"}}, sent instead of an attest.
func EncodeRefusal(code, message string) ([]byte, error) {
	var r refusal
	r.Error.Code, r.Error.Message = code, cut(message, MaxErrorText)
	return Marshal(r)
}

// Encode validates a and returns its encoding.
func (a *Attest) Encode() ([]byte, error) {
	if err := a.validate(); err != nil {
		return nil, err
	}
	return Marshal(a)
}

// ParseAttest decodes an attest. It returns a *RemoteError, whose text is untrusted, when
// the other side refused.
func ParseAttest(data []byte) (*Attest, error) {
	var a Attest
	if err := decodeAnswer(data, &a); err != nil {
		return nil, err
	}
	return checked(&a)
}

func (a *Attest) validate() error {
	if size := a.KEM.PublicKeySize(); size == 0 || len(a.PublicKey) != size {
		return fmt.Errorf("%w: attest with a public key of %d bytes for key exchange %#04x", ErrMalformed, len(a.PublicKey), uint16(a.KEM))
	}
	return validateEvidence(a.Document, a.Config, a.Policy, a.Birth)
}

// Encode validates a and returns its encoding.
func (a *KeyAttest) Encode() ([]byte, error) {
	if err := a.validate(); err != nil {
		return nil, err
	}
	return Marshal(a)
}

// ParseKeyAttest is ParseAttest for the answer to a hello for a Cape Key.
func ParseKeyAttest(data []byte) (*KeyAttest, error) {
	var a KeyAttest
	if err := decodeAnswer(data, &a); err != nil {
		return nil, err
	}
	return checked(&a)
}

func (a *KeyAttest) validate() error {
	if len(a.SPKI) == 0 || len(a.SPKI) > MaxSPKI {
		return fmt.Errorf("%w: attest with a Cape Key of %d bytes", ErrMalformed, len(a.SPKI))
	}
	return validateEvidence(a.Document, a.Config, a.Policy, a.Birth)
}

// validateEvidence lets an empty policy pass, and no birth document: an enclave that has not
// inspected its key says so with them, and clients refuse it by name.
func validateEvidence(document, config, policy, birth []byte) error {
	if len(document) == 0 || len(document) > MaxDocument || len(config) == 0 || len(config) > MaxConfig ||
		len(policy) > MaxPolicy || len(birth) > MaxDocument {
		return fmt.Errorf("%w: attest with a part that is missing or too large", ErrMalformed)
	}
	return nil
}

func decodeAnswer(data []byte, v any) error {
	var r refusal
	if Unmarshal(data, MaxAttest, &r) == nil {
		return &RemoteError{Code: r.Error.Code, Text: cut(r.Error.Message, MaxErrorText)}
	}
	if err := Unmarshal(data, MaxAttest, v); err != nil {
		return fmt.Errorf("reading attest: %w", err)
	}
	return nil
}

// SessionClaim is the user data of a session's document.
type SessionClaim struct {
	V      int    `cbor:"v"`
	Use    string `cbor:"use"` // UseSession
	KEM    KEM    `cbor:"kem"`
	PK     []byte `cbor:"pk"`     // SHA-256 of Attest.PublicKey
	Policy []byte `cbor:"policy"` // SHA-256 of Attest.Policy
	Config []byte `cbor:"config"` // SHA-256 of Attest.Config
	TLS    []byte `cbor:"tls"`    // SHA-256 of the SPKI of the enclave's TLS key; nil without one
}

// KeyClaim is the user data of a Cape Key's document. User is what the caller asked for, and
// proves nothing; Acct is nil for the legacy key of a user without an account.
type KeyClaim struct {
	V      int     `cbor:"v"`
	Use    string  `cbor:"use"` // UseKey
	User   *string `cbor:"user"`
	Acct   []byte  `cbor:"acct"`
	CK     []byte  `cbor:"ck"` // SHA-256 of KeyAttest.SPKI
	Policy []byte  `cbor:"policy"`
	Config []byte  `cbor:"config"`
	TLS    []byte  `cbor:"tls"`
}

// ParseSessionClaim decodes the user data of a session's document. It refuses JSON, which
// stands in v1 documents, and documents for another use.
func ParseSessionClaim(data []byte) (*SessionClaim, error) {
	var c SessionClaim
	if err := Unmarshal(data, MaxUserData, &c); err != nil {
		return nil, fmt.Errorf("reading the document's claim: %w", err)
	}
	if c.V != 2 || c.Use != UseSession || c.KEM.PublicKeySize() == 0 || !hashes(c.PK, c.Policy, c.Config) || !hashOrNull(c.TLS) {
		return nil, fmt.Errorf("%w: the document is not for a session", ErrMalformed)
	}
	return &c, nil
}

// ParseKeyClaim decodes the user data of a Cape Key's document.
func ParseKeyClaim(data []byte) (*KeyClaim, error) {
	var c KeyClaim
	if err := Unmarshal(data, MaxUserData, &c); err != nil {
		return nil, fmt.Errorf("reading the document's claim: %w", err)
	}
	if c.V != 2 || c.Use != UseKey || !hashes(c.CK, c.Policy, c.Config) || !hashOrNull(c.TLS) || !hashOrNull(c.Acct) ||
		(c.User == nil && c.Acct == nil) || (c.User != nil && !ValidUsername(*c.User)) {
		return nil, fmt.Errorf("%w: the document is not for a Cape Key", ErrMalformed)
	}
	return &c, nil
}

func hashes(all ...[]byte) bool {
	for _, h := range all {
		if len(h) != sha256.Size {
			return false
		}
	}
	return true
}

func hashOrNull(h []byte) bool { return h == nil || len(h) == sha256.Size }

// cut shortens text to at most n bytes of whole characters.
func cut(text string, n int) string {
	if len(text) > n {
		text = text[:n]
	}
	return strings.ToValidUTF8(text, "")
}
