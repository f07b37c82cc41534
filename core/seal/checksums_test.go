package seal_test

import (
	"bytes"
	"crypto"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/x509"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"errors"
	"math/big"
	"testing"

	"github.com/cape-functions/cape/core/seal"
)

// published is the run of isprime on "13" that the original documented.
func published(t *testing.T) seal.Checksums {
	t.Helper()
	sum := func(s string) [32]byte {
		b, err := base64.StdEncoding.DecodeString(s)
		if err != nil {
			t.Fatal(err)
		}
		return [32]byte(b)
	}
	return seal.Checksums{
		Input:    sum("P9ujXwTcjEYphsmSvPh1VGJXETByqQnBYvfkcOWB4ng="),
		Function: sum("ZnMeXM8iZoDdXJih0a1St6TJhphAQtBnLY8xUxMLNKg="),
		Output:   sum("42kYy2Cf1YAOs3sdYIA1lKTWzclzPTCK1xVLBG6CQ6c="),
	}
}

func TestSigningBytes(t *testing.T) {
	c := published(t)
	if c.Input != sha256.Sum256([]byte("13")) || c.Output != sha256.Sum256([]byte("13 is prime")) {
		t.Error("the published checksums are of other texts")
	}
	got := c.SigningBytes()
	digest := sha256.Sum256(got)
	if len(got) != 171 || hex.EncodeToString(digest[:]) != "d9ea09af57ff60e4c17455953482e7a719cf553aedbe9996cb1a00877d02e19a" {
		t.Errorf("%d bytes, %x", len(got), digest)
	}
	var want bytes.Buffer
	err := json.NewEncoder(&want).Encode(struct {
		Input    []byte `json:"input"`
		Function []byte `json:"function"`
		Output   []byte `json:"output"`
	}{c.Input[:], c.Function[:], c.Output[:]})
	if err != nil || !bytes.Equal(got, want.Bytes()) {
		t.Errorf("%q, the original's encoder gives %q", got, want.Bytes())
	}
}

func TestSignedChecksums(t *testing.T) {
	key, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		t.Fatal(err)
	}
	pub := x509.MarshalPKCS1PublicKey(&key.PublicKey)
	c := published(t)
	sig, err := seal.SignChecksums(key, c)
	if err != nil {
		t.Fatal(err)
	}
	if err := seal.VerifyChecksums(pub, c, sig); err != nil {
		t.Error(err)
	}
	long := signed(t, key, c, rsa.PSSSaltLengthAuto)
	if err := seal.VerifyChecksums(pub, c, long); err != nil {
		t.Errorf("longest salt: %v", err)
	}

	spki, err := x509.MarshalPKIXPublicKey(&key.PublicKey)
	if err != nil {
		t.Fatal(err)
	}
	other, small := c, mustKey(t, 1024)
	other.Output[0] ^= 1
	swapped := seal.Checksums{Input: c.Output, Function: c.Function, Output: c.Input}
	for _, v := range []struct {
		name string
		pub  []byte
		c    seal.Checksums
		sig  []byte
		want error
	}{
		{"other output", pub, other, sig, seal.ErrSignature},
		{"swapped", pub, swapped, sig, seal.ErrSignature},
		{"cut signature", pub, c, sig[:255], seal.ErrSignature},
		{"no signature", pub, c, nil, seal.ErrSignature},
		{"changed signature", pub, c, append(bytes.Clone(sig[:255]), sig[255]^1), seal.ErrSignature},
		{"no key", nil, c, sig, seal.ErrSigningKey},
		{"SPKI key", spki, c, sig, seal.ErrSigningKey},
		{"trailing bytes", append(bytes.Clone(pub), 0), c, sig, seal.ErrSigningKey},
		{"huge key", x509.MarshalPKCS1PublicKey(&rsa.PublicKey{N: new(big.Int).SetBit(big.NewInt(1), 8192, 1), E: 65537}), c, make([]byte, 1025), seal.ErrSigningKey},
		{"small key", x509.MarshalPKCS1PublicKey(&small.PublicKey), c, signed(t, small, c, 32), seal.ErrSigningKey},
	} {
		if err := seal.VerifyChecksums(v.pub, v.c, v.sig); !errors.Is(err, v.want) {
			t.Errorf("%s: %v", v.name, err)
		}
	}
}

func mustKey(t *testing.T, bits int) *rsa.PrivateKey {
	t.Helper()
	t.Setenv("GODEBUG", "rsa1024min=0")
	key, err := rsa.GenerateKey(rand.Reader, bits)
	if err != nil {
		t.Fatal(err)
	}
	return key
}

func signed(t *testing.T, key *rsa.PrivateKey, c seal.Checksums, salt int) []byte {
	t.Helper()
	digest := sha256.Sum256(c.SigningBytes())
	sig, err := rsa.SignPSS(rand.Reader, key, crypto.SHA256, digest[:], &rsa.PSSOptions{SaltLength: salt, Hash: crypto.SHA256})
	if err != nil {
		t.Fatal(err)
	}
	return sig
}
