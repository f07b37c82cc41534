package main

import (
	"crypto/aes"
	"crypto/cipher"
	"crypto/ecdh"
	"crypto/hkdf"
	"crypto/mlkem"
	"crypto/mlkem/mlkemtest"
	"crypto/sha256"
	"crypto/sha3"
	"encoding/binary"
	"slices"
)

// A second implementation of what session v2 uses of RFC 9180, with ephemeral
// keys that are chosen: the standard library's draws them.

// kemPair is a fixed key pair of one KEM: the private key as RFC 9180
// serializes it, and how to encapsulate to its public half.
type kemPair struct {
	id          int
	private     []byte
	public      []byte
	encapsulate func(s *set) (shared, enc []byte)
}

func x25519Pair(s *set, label string) kemPair {
	private := clamped(hashBytes("x25519 " + label))
	key, err := ecdh.X25519().NewPrivateKey(private)
	s.check(err)
	public := key.PublicKey().Bytes()
	return kemPair{0x20, private, public, func(s *set) ([]byte, []byte) {
		dh, enc := x25519(s, "ephemeral "+label, public)
		suite := append([]byte("KEM"), 0, 0x20)
		prk := labeledExtract(s, suite, nil, "eae_prk", dh)
		return labeledExpand(s, suite, prk, "shared_secret", slices.Concat(enc, public), 32), enc
	}}
}

// clamped is a scalar in the form that RFC 9180 serializes.
func clamped(b []byte) []byte {
	b[0] &= 248
	b[31] = b[31]&127 | 64
	return b
}

func x25519(s *set, label string, public []byte) (shared, enc []byte) {
	ephemeral, err := ecdh.X25519().NewPrivateKey(hashBytes(label))
	s.check(err)
	peer, err := ecdh.X25519().NewPublicKey(public)
	s.check(err)
	shared, err = ephemeral.ECDH(peer)
	s.check(err)
	return shared, ephemeral.PublicKey().Bytes()
}

// xwingPair follows draft-connolly-cfrg-xwing-kem: SHAKE-256 of the seed gives
// the seed of ML-KEM-768 and the scalar; SHA3-256 joins both secrets.
func xwingPair(s *set, label string) kemPair {
	seed := hashBytes("x-wing " + label)
	expanded := sha3.SumSHAKE256(seed, 96)
	pq, err := mlkem.NewDecapsulationKey768(expanded[:64])
	s.check(err)
	t, err := ecdh.X25519().NewPrivateKey(expanded[64:])
	s.check(err)
	publicT := t.PublicKey().Bytes()
	public := append(pq.EncapsulationKey().Bytes(), publicT...)
	return kemPair{0x647a, seed, public, func(s *set) ([]byte, []byte) {
		sharedPQ, encPQ, err := mlkemtest.Encapsulate768(pq.EncapsulationKey(), hashBytes("coins "+label))
		s.check(err)
		sharedT, encT := x25519(s, "ephemeral "+label, publicT)
		shared := sha3.Sum256(slices.Concat(sharedPQ, sharedT, encT, publicT, []byte(`\.//^\`)))
		return shared[:], append(encPQ, encT...)
	}}
}

// seal is HPKE's single shot in base mode with HKDF-SHA256 and AES-256-GCM.
func (p kemPair) seal(s *set, info, plaintext []byte) []byte {
	shared, enc := p.encapsulate(s)
	suite := append([]byte("HPKE"), byte(p.id>>8), byte(p.id), 0, 1, 0, 2)
	context := slices.Concat([]byte{0}, labeledExtract(s, suite, nil, "psk_id_hash", nil), labeledExtract(s, suite, nil, "info_hash", info))
	secret := labeledExtract(s, suite, shared, "secret", nil)
	key := labeledExpand(s, suite, secret, "key", context, 32)
	nonce := labeledExpand(s, suite, secret, "base_nonce", context, 12)
	return append(enc, sealGCM(s, key, nonce, plaintext)...)
}

func labeledExtract(s *set, suite, salt []byte, label string, ikm []byte) []byte {
	out, err := hkdf.Extract(sha256.New, slices.Concat([]byte("HPKE-v1"), suite, []byte(label), ikm), salt)
	s.check(err)
	return out
}

func labeledExpand(s *set, suite, prk []byte, label string, info []byte, size int) []byte {
	labeled := slices.Concat(binary.BigEndian.AppendUint16(nil, uint16(size)), []byte("HPKE-v1"), suite, []byte(label), info)
	out, err := hkdf.Expand(sha256.New, prk, string(labeled), size)
	s.check(err)
	return out
}

func sealGCM(s *set, key, nonce, plaintext []byte) []byte {
	block, err := aes.NewCipher(key)
	s.check(err)
	aead, err := cipher.NewGCM(block)
	s.check(err)
	return aead.Seal(nil, nonce, plaintext, nil)
}
