package wire

import (
	"fmt"
	"slices"
)

// Uses of a v2 hello and of the document that answers it.
const (
	UseSession = "session"
	UseKey     = "key"
)

// NonceSize is the length of a v2 client's nonce.
const NonceSize = 32

// KEM is a key encapsulation mechanism by its number in HPKE's registry (RFC 9180).
type KEM uint16

// The key exchanges of v2.
const (
	KEMXWing  KEM = 0x647a // ML-KEM-768 and X25519 (draft-connolly-cfrg-xwing-kem)
	KEMX25519 KEM = 0x0020 // DHKEM(X25519, HKDF-SHA256), for clients that lack X-Wing
)

// PublicKeySize is the length of a serialized public key, 0 for a KEM that v2 does not use.
func (k KEM) PublicKeySize() int {
	switch k {
	case KEMXWing:
		return 1216
	case KEMX25519:
		return 32
	}
	return 0
}

// Hello opens a v2 connection. KEMs stands in a hello for a session alone, Of in one for a
// Cape Key alone. The exact bytes go into the session's transcript.
type Hello struct {
	V     int    `cbor:"v"` // 2
	Use   string `cbor:"use"`
	Nonce []byte `cbor:"nonce"` // NonceSize
	KEMs  []KEM  `cbor:"kems,omitempty"`
	Route string `cbor:"route"` // path of the request that the client means to make
	Of    *KeyOf `cbor:"of,omitempty"`
}

// KeyOf names whose Cape Key is asked for: exactly one field is set. A user name is the
// host's word for an account.
type KeyOf struct {
	Acct []byte `cbor:"acct,omitempty"`
	User string `cbor:"user,omitempty"`
}

// Encode validates h and returns its encoding.
func (h *Hello) Encode() ([]byte, error) {
	if err := h.validate(); err != nil {
		return nil, err
	}
	return Marshal(h)
}

// ParseHello decodes a hello of either use.
func ParseHello(data []byte) (*Hello, error) {
	var h Hello
	if err := Unmarshal(data, MaxHello, &h); err != nil {
		return nil, fmt.Errorf("reading hello: %w", err)
	}
	return checked(&h)
}

func (h *Hello) validate() error {
	switch {
	case h.V != 2:
		return fmt.Errorf("%w: hello of version %d, this is version 2", ErrMalformed, h.V)
	case len(h.Nonce) != NonceSize:
		return fmt.Errorf("%w: hello's nonce has %d bytes, it needs %d", ErrMalformed, len(h.Nonce), NonceSize)
	case h.Route == "" || h.Route[0] != '/' || len(h.Route) > MaxRoute:
		return fmt.Errorf("%w: hello names no route", ErrMalformed)
	}
	switch h.Use {
	case UseSession:
		return h.validateKEMs()
	case UseKey:
		return h.validateOf()
	}
	return fmt.Errorf("%w: hello for an unknown use", ErrMalformed)
}

// validateKEMs lets unknown numbers pass: they are offers.
func (h *Hello) validateKEMs() error {
	if h.Of != nil || len(h.KEMs) == 0 || len(h.KEMs) > MaxKEMs {
		return fmt.Errorf("%w: hello for a session offers no key exchange, too many, or asks for a key", ErrMalformed)
	}
	for i, k := range h.KEMs {
		if slices.Contains(h.KEMs[:i], k) {
			return fmt.Errorf("%w: hello offers a key exchange twice", ErrMalformed)
		}
	}
	return nil
}

func (h *Hello) validateOf() error {
	if h.KEMs != nil || h.Of == nil {
		return fmt.Errorf("%w: hello for a key says not whose, or offers a key exchange", ErrMalformed)
	}
	byAcct, byUser := len(h.Of.Acct) == 32, ValidUsername(h.Of.User)
	if byAcct == byUser || (h.Of.Acct != nil) != byAcct || (h.Of.User != "") != byUser {
		return fmt.Errorf("%w: hello for a key names no account or user", ErrMalformed)
	}
	return nil
}
