package wire

import (
	"crypto/sha256"
	"fmt"
)

// Access says who may run a function.
type Access string

// Values of Access.
const (
	AccessPublic Access = "public" // whoever shows a valid token
	AccessToken  Access = "token"  // whom the issuer names as the owner
	AccessGrant  Access = "grant"  // the owner's own authority and grants signed by it
)

// Decrypt says for whom the account's Cape Key opens envelopes.
type Decrypt string

// Values of Decrypt.
const (
	DecryptOwner Decrypt = "owner" // only in sessions that the owner's authority admitted
	DecryptAny   Decrypt = "any"   // envelopes that name this function, for every admitted caller
)

// Subject is a user as an issuer names it.
type Subject struct {
	Iss string `cbor:"iss"`
	Sub string `cbor:"sub"`
}

// Manifest is what a function is: the runtime takes nothing about a function
// from anywhere else. Acct is SHA-256 of the account key's SPKI, or nil when
// the runtime itself wrote the manifest for a v1 client, which has no account.
type Manifest struct {
	V        int     `cbor:"v"`
	Owner    Subject `cbor:"owner"`
	Acct     []byte  `cbor:"acct"`
	Name     string  `cbor:"name"`
	Access   Access  `cbor:"access"`
	Decrypt  Decrypt `cbor:"decrypt"`
	Seq      uint64  `cbor:"seq"`
	Checksum []byte  `cbor:"checksum"`
	Salt     []byte  `cbor:"salt"`
}

// Validate checks every field of m against its domain.
func (m *Manifest) Validate() error {
	switch {
	case m.V != 2:
		return fmt.Errorf("%w: manifest version %d", ErrMalformed, m.V)
	case m.Owner.Iss == "" || m.Owner.Sub == "" || len(m.Owner.Iss) > 512 || len(m.Owner.Sub) > 512:
		return fmt.Errorf("%w: manifest owner", ErrMalformed)
	case m.Acct != nil && len(m.Acct) != sha256.Size:
		return fmt.Errorf("%w: manifest account of %d bytes", ErrMalformed, len(m.Acct))
	case !ValidFunctionName(m.Name):
		return fmt.Errorf("%w: function name %q", ErrMalformed, m.Name)
	case m.Access != AccessPublic && m.Access != AccessToken && m.Access != AccessGrant:
		return fmt.Errorf("%w: manifest access %q", ErrMalformed, m.Access)
	case m.Access == AccessGrant && m.Acct == nil:
		return fmt.Errorf("%w: manifest access %q without an account that could grant it", ErrMalformed, m.Access)
	case m.Decrypt != DecryptOwner && m.Decrypt != DecryptAny:
		return fmt.Errorf("%w: manifest decrypt %q", ErrMalformed, m.Decrypt)
	case len(m.Checksum) != sha256.Size:
		return fmt.Errorf("%w: manifest checksum of %d bytes", ErrMalformed, len(m.Checksum))
	case len(m.Salt) != 16:
		return fmt.Errorf("%w: manifest salt of %d bytes", ErrMalformed, len(m.Salt))
	}
	return nil
}

// Encode validates m and returns its deterministic encoding: the bytes that
// are signed, hashed and stored.
func (m *Manifest) Encode() ([]byte, error) {
	if err := m.Validate(); err != nil {
		return nil, err
	}
	return Marshal(m)
}

// ParseManifest decodes and validates a manifest.
func ParseManifest(data []byte) (*Manifest, error) {
	var m Manifest
	if err := Unmarshal(data, MaxManifest, &m); err != nil {
		return nil, fmt.Errorf("reading manifest: %w", err)
	}
	if err := m.Validate(); err != nil {
		return nil, err
	}
	return &m, nil
}
