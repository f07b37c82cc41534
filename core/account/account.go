package account

import (
	"crypto/ed25519"
	"crypto/rand"
	"crypto/sha256"
	"crypto/x509"
	"encoding/hex"
	"encoding/pem"
	"errors"
	"fmt"

	"github.com/cape-functions/cape/core/secret"
	"github.com/cape-functions/cape/core/wire"
)

// Sentinels.
var (
	// ErrKey: not an account key in the form of Key.Encode.
	ErrKey = errors.New("not an account key: one PEM block PRIVATE KEY with an Ed25519 key is expected")
	// ErrID: not 64 lower-case hexadecimal digits.
	ErrID = errors.New("not an account: 64 hexadecimal digits are expected")
	// ErrManifest: a manifest is malformed, of another account, or not signed by its account.
	ErrManifest = errors.New("manifest is not signed by its account")
	// ErrAuthority: the proof that the account's key opened this session does not hold.
	ErrAuthority = errors.New("account signature does not hold for this session")
)

// What signatures begin with, so that none can stand for another.
const (
	labelManifest  = "cape v2 manifest\x00"
	labelAuthority = "cape v2 authority\x00"
)

const pemType = "PRIVATE KEY"

// ID names an account: SHA-256 of its public key's SPKI (44 bytes, RFC 8410). Values compare
// with ==.
type ID [32]byte

// String returns 64 lower-case hexadecimal digits.
func (id ID) String() string { return hex.EncodeToString(id[:]) }

// ParseID reads what String writes. Error: ErrID.
func ParseID(s string) (ID, error) {
	b, err := hex.DecodeString(s)
	if err != nil || len(b) != len(ID{}) || hex.EncodeToString(b) != s {
		return ID{}, ErrID
	}
	return ID(b), nil
}

// Public is an account's public key as messages carry it: 32 raw bytes.
type Public [wire.AccountKeySize]byte

// SPKI returns the key's SubjectPublicKeyInfo.
func (p Public) SPKI() []byte {
	prefix := []byte{0x30, 0x2a, 0x30, 0x05, 0x06, 0x03, 0x2b, 0x65, 0x70, 0x03, 0x21, 0x00}
	return append(prefix, p[:]...)
}

// ID returns the account's name.
func (p Public) ID() ID { return sha256.Sum256(p.SPKI()) }

// Key is an account's private key. It does not print.
type Key struct {
	seed   secret.Bytes
	public Public
}

// New makes a key.
func New() (*Key, error) {
	seed := make([]byte, ed25519.SeedSize)
	rand.Read(seed)
	return FromSeed(secret.New(seed))
}

// FromSeed makes the key of a 32-byte seed, which it takes over. Error: ErrKey.
func FromSeed(seed secret.Bytes) (*Key, error) {
	if seed.Len() != ed25519.SeedSize {
		return nil, ErrKey
	}
	k := &Key{seed: seed}
	copy(k.public[:], k.private()[ed25519.SeedSize:])
	return k, nil
}

// Parse reads a key file: one PEM block with PKCS#8 (RFC 8410). Error: ErrKey.
func Parse(file []byte) (*Key, error) {
	block, rest := pem.Decode(file)
	if block == nil || block.Type != pemType || len(rest) != 0 || len(block.Headers) != 0 {
		return nil, ErrKey
	}
	parsed, err := x509.ParsePKCS8PrivateKey(block.Bytes)
	if err != nil {
		return nil, ErrKey
	}
	private, ok := parsed.(ed25519.PrivateKey)
	if !ok {
		return nil, ErrKey
	}
	return FromSeed(secret.New(private.Seed()))
}

// Encode returns the key's file, which is to be kept from everybody else.
func (k *Key) Encode() (secret.Bytes, error) {
	der, err := x509.MarshalPKCS8PrivateKey(k.private())
	if err != nil {
		return secret.Bytes{}, fmt.Errorf("encoding account key: %w", err)
	}
	defer clear(der)
	return secret.New(pem.EncodeToMemory(&pem.Block{Type: pemType, Bytes: der})), nil
}

func (k *Key) private() ed25519.PrivateKey { return ed25519.NewKeyFromSeed(k.seed.Reveal()) }

// Public returns the public half.
func (k *Key) Public() Public { return k.public }

// ID returns the account's name.
func (k *Key) ID() ID { return k.public.ID() }

// SignManifest encodes m, whose Acct must be the key's account, and signs those bytes.
// Errors match ErrManifest or wire.ErrMalformed.
func (k *Key) SignManifest(m *wire.Manifest) (manifest, sig []byte, err error) {
	if id := k.ID(); len(m.Acct) != len(id) || ID(m.Acct) != id {
		return nil, nil, fmt.Errorf("%w: it names another account", ErrManifest)
	}
	if manifest, err = m.Encode(); err != nil {
		return nil, nil, err
	}
	return manifest, k.sign(labelManifest, manifest), nil
}

// VerifyManifest returns the content of a manifest that the account key signed. The key
// is 32 bytes, and the account must be the manifest's. Errors match ErrManifest.
func VerifyManifest(manifest, sig, key []byte) (*wire.Manifest, error) {
	m, err := wire.ParseManifest(manifest)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrManifest, err)
	}
	if len(key) != len(Public{}) {
		return nil, fmt.Errorf("%w: its key has %d bytes", ErrManifest, len(key))
	}
	p := Public(key)
	if len(m.Acct) != len(ID{}) || ID(m.Acct) != p.ID() {
		return nil, fmt.Errorf("%w: its key is of another account", ErrManifest)
	}
	if !p.verify(labelManifest, manifest, sig) {
		return nil, fmt.Errorf("%w: the signature does not hold", ErrManifest)
	}
	return m, nil
}

// Authority signs a session's transcript: the proof that the account's owner opened it.
func (k *Key) Authority(transcript [32]byte) []byte { return k.sign(labelAuthority, transcript[:]) }

// VerifyAuthority returns the account whose key, of 32 bytes, signed the transcript.
// Error: ErrAuthority.
func VerifyAuthority(key, sig []byte, transcript [32]byte) (ID, error) {
	if len(key) != len(Public{}) {
		return ID{}, ErrAuthority
	}
	p := Public(key)
	if !p.verify(labelAuthority, transcript[:], sig) {
		return ID{}, ErrAuthority
	}
	return p.ID(), nil
}

func (k *Key) sign(label string, message []byte) []byte {
	return ed25519.Sign(k.private(), append([]byte(label), message...))
}

func (p Public) verify(label string, message, sig []byte) bool {
	return ed25519.Verify(p[:], append([]byte(label), message...), sig)
}
