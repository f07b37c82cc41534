package main

import (
	"crypto/rsa"
	"crypto/sha256"
	"crypto/x509"
	"embed"
	"encoding/binary"
	"encoding/pem"
	"fmt"
	"io"

	"github.com/cape-functions/cape/tools/vectorgen/vectors"
)

// The keys are public and protect nothing.
//
//go:embed testdata/*.pem
var pemFiles embed.FS

// keyring is the fixed RSA keys: two Cape Keys, and one that signs checksums.
type keyring struct {
	capeA, capeB, signer *rsa.PrivateKey
}

const (
	nameA      = "rsa-4096-a"
	nameB      = "rsa-4096-b"
	nameSigner = "rsa-2048-a"
)

func readKeys() (*keyring, error) {
	var k keyring
	for name, dst := range map[string]**rsa.PrivateKey{nameA: &k.capeA, nameB: &k.capeB, nameSigner: &k.signer} {
		data, err := pemFiles.ReadFile("testdata/" + name + ".pem")
		if err != nil {
			return nil, err
		}
		block, _ := pem.Decode(data)
		if block == nil {
			return nil, fmt.Errorf("key %s is not PEM", name)
		}
		parsed, err := x509.ParsePKCS8PrivateKey(block.Bytes)
		if err != nil {
			return nil, fmt.Errorf("key %s: %w", name, err)
		}
		key, ok := parsed.(*rsa.PrivateKey)
		if !ok {
			return nil, fmt.Errorf("key %s is not RSA", name)
		}
		*dst = key
	}
	return &k, nil
}

func (k *keyring) file() ([]byte, error) {
	stored := make(vectors.Keys)
	for name, key := range map[string]*rsa.PrivateKey{nameA: k.capeA, nameB: k.capeB, nameSigner: k.signer} {
		pkcs8, err := x509.MarshalPKCS8PrivateKey(key)
		if err != nil {
			return nil, err
		}
		spki, err := x509.MarshalPKIXPublicKey(&key.PublicKey)
		if err != nil {
			return nil, err
		}
		hash := sha256.Sum256(spki)
		stored[name] = vectors.Key{PKCS8: pkcs8, SPKI: spki, Hash: hash[:]}
	}
	return stored.Encode()
}

// keyHash is SHA-256 of the key's SPKI.
func keyHash(key *rsa.PrivateKey) ([]byte, error) {
	spki, err := x509.MarshalPKIXPublicKey(&key.PublicKey)
	hash := sha256.Sum256(spki)
	return hash[:], err
}

// fixed is a reader that looks random and depends on its label alone.
type fixed struct {
	label string
	block uint64
	left  []byte
}

func (f *fixed) Read(p []byte) (int, error) {
	if len(f.left) == 0 {
		sum := sha256.Sum256(binary.BigEndian.AppendUint64([]byte(f.label), f.block))
		f.left, f.block = sum[:], f.block+1
	}
	n := copy(p, f.left)
	f.left = f.left[n:]
	return n, nil
}

// bytesOf returns n fixed bytes.
func bytesOf(label string, n int) []byte {
	out := make([]byte, n)
	// It never fails.
	_, _ = io.ReadFull(&fixed{label: label}, out)
	return out
}

// plaintextOf describes a plaintext.
func plaintextOf(b []byte) vectors.Plaintext {
	sum := sha256.Sum256(b)
	return vectors.Plaintext{Size: len(b), SHA256: sum[:]}
}
