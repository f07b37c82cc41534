package seal

import (
	"crypto/ecdh"
	"crypto/hpke"
	"crypto/rand"
	"errors"
	"fmt"
	"sync"
)

const (
	// PublicKeySize is the length of a v1 session key's public half.
	PublicKeySize = 32
	// FrameOverhead is what SealV1 adds: the encapsulated key and the tag.
	FrameOverhead = PublicKeySize + 16
)

// Sentinels of v1 frames.
var (
	// ErrPublicKey: the session key is not a usable X25519 public key.
	ErrPublicKey = errors.New("session key is not an X25519 public key of 32 bytes")
	// ErrFrame: the frame is too short to be a sealed one.
	ErrFrame = errors.New("sealed frame is too short: it holds no key and tag")
	// ErrOpen: the frame was sealed to another key, or was changed.
	ErrOpen = errors.New("sealed frame does not open: it was sealed to another session key, or was changed on its way")
	// ErrWiped: the session key was forgotten already.
	ErrWiped = errors.New("session key was wiped")
)

// SessionKey is the enclave's key of one v1 connection: X25519, for HPKE in
// base mode with HKDF-SHA256 and ChaCha20-Poly1305 (RFC 9180). It is safe for
// use by several goroutines.
type SessionKey struct {
	mu     sync.Mutex
	key    hpke.PrivateKey
	public []byte
}

// NewSessionKey makes a fresh key.
func NewSessionKey() (*SessionKey, error) {
	priv, err := ecdh.X25519().GenerateKey(rand.Reader)
	if err != nil {
		return nil, fmt.Errorf("making session key: %w", err)
	}
	return sessionKey(priv)
}

// SessionKeyFrom wraps a raw 32-byte X25519 private key, for known answers.
func SessionKeyFrom(raw []byte) (*SessionKey, error) {
	priv, err := ecdh.X25519().NewPrivateKey(raw)
	if err != nil {
		return nil, fmt.Errorf("reading session key: %w", err)
	}
	return sessionKey(priv)
}

func sessionKey(priv *ecdh.PrivateKey) (*SessionKey, error) {
	key, err := hpke.NewDHKEMPrivateKey(priv)
	if err != nil {
		return nil, fmt.Errorf("making session key: %w", err)
	}
	return &SessionKey{key: key, public: priv.PublicKey().Bytes()}, nil
}

// Public returns the 32 raw bytes of the public half, as the attestation
// document carries them.
func (k *SessionKey) Public() []byte { return append([]byte(nil), k.public...) }

// Open opens a frame enc(32) ‖ ciphertext that SealV1 or any v1 client made.
// The plaintext may be empty. Errors: ErrFrame, ErrOpen, ErrWiped.
func (k *SessionKey) Open(frame []byte) ([]byte, error) {
	if len(frame) < FrameOverhead {
		return nil, ErrFrame
	}
	k.mu.Lock()
	key := k.key
	k.mu.Unlock()
	if key == nil {
		return nil, ErrWiped
	}
	plaintext, err := hpke.Open(key, hpke.HKDFSHA256(), hpke.ChaCha20Poly1305(), nil, frame)
	if err != nil {
		return nil, ErrOpen
	}
	return plaintext, nil
}

// Wipe forgets the private half: frames sealed to it can never be opened
// again.
func (k *SessionKey) Wipe() {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.key = nil
}

// SealV1 seals plaintext to the 32-byte session key of an attestation
// document: enc(32) ‖ ciphertext, empty info and aad. Each call is a fresh
// single shot. Error: ErrPublicKey.
func SealV1(public, plaintext []byte) ([]byte, error) {
	pub, err := ecdh.X25519().NewPublicKey(public)
	if err != nil {
		return nil, ErrPublicKey
	}
	key, err := hpke.NewDHKEMPublicKey(pub)
	if err != nil {
		return nil, ErrPublicKey
	}
	frame, err := hpke.Seal(key, hpke.HKDFSHA256(), hpke.ChaCha20Poly1305(), nil, plaintext)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrPublicKey, err)
	}
	return frame, nil
}
