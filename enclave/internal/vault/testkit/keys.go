package testkit

import (
	"context"
	"crypto/rand"
	"crypto/rsa"
	"fmt"
	"slices"
	"sync"

	"github.com/cape-functions/cape/core/secret"
	"github.com/cape-functions/cape/enclave/internal/keyring"
)

// Keys is a key service. It is safe for concurrent use.
type Keys struct {
	// Bits is the size of key pairs: small ones make tests quick.
	Bits int
	// Down makes every call fail as an unreachable KMS does.
	Down bool

	mu    sync.Mutex
	blobs map[string]wrapped
	pairs int
	opens int
}

type wrapped struct {
	context keyring.Context
	data    []byte
	pair    *rsa.PrivateKey
}

// NewKeys returns a key service.
func NewKeys() *Keys { return &Keys{Bits: 2048, blobs: map[string]wrapped{}} }

// Pairs is how many key pairs were made, Opens how many data keys were unwrapped.
func (k *Keys) Pairs() int {
	k.mu.Lock()
	defer k.mu.Unlock()
	return k.pairs
}

// Opens: see Pairs.
func (k *Keys) Opens() int {
	k.mu.Lock()
	defer k.mu.Unlock()
	return k.opens
}

func (k *Keys) wrap(w wrapped) []byte {
	blob := make([]byte, 64)
	rand.Read(blob)
	k.mu.Lock()
	defer k.mu.Unlock()
	k.blobs[string(blob)] = w
	return blob
}

func (k *Keys) unwrap(blob []byte, c keyring.Context) (wrapped, error) {
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.Down {
		return wrapped{}, keyring.ErrUnavailable
	}
	w, ok := k.blobs[string(blob)]
	if !ok || w.context != c {
		return wrapped{}, fmt.Errorf("testkit: %w", keyring.ErrWrapped)
	}
	k.opens++
	return w, nil
}

// NewDataKey implements vault.Keys.
func (k *Keys) NewDataKey(_ context.Context, c keyring.Context) (secret.Bytes, []byte, error) {
	if k.Down {
		return secret.Bytes{}, nil, keyring.ErrUnavailable
	}
	data := make([]byte, 32)
	rand.Read(data)
	return secret.New(data), k.wrap(wrapped{context: c, data: slices.Clone(data)}), nil
}

// OpenDataKey implements vault.Keys.
func (k *Keys) OpenDataKey(_ context.Context, blob []byte, c keyring.Context) (secret.Bytes, error) {
	w, err := k.unwrap(blob, c)
	if err != nil {
		return secret.Bytes{}, err
	}
	return secret.New(slices.Clone(w.data)), nil
}

// NewKeyPair implements vault.Keys.
func (k *Keys) NewKeyPair(_ context.Context, c keyring.Context) (*rsa.PrivateKey, []byte, error) {
	if k.Down {
		return nil, nil, keyring.ErrUnavailable
	}
	pair, err := rsa.GenerateKey(rand.Reader, k.Bits)
	if err != nil {
		return nil, nil, err
	}
	k.mu.Lock()
	k.pairs++
	k.mu.Unlock()
	return pair, k.wrap(wrapped{context: c, pair: pair}), nil
}

// OpenKeyPair implements vault.Keys.
func (k *Keys) OpenKeyPair(_ context.Context, blob []byte, c keyring.Context) (*rsa.PrivateKey, error) {
	w, err := k.unwrap(blob, c)
	if err != nil {
		return nil, err
	}
	return w.pair, nil
}
