package cms

import (
	"bytes"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/x509"
	"encoding/hex"
	"encoding/json"
	"errors"
	"os"
	"sync"
	"testing"

	"github.com/cape-functions/cape/core/attest/testkit"
	open "github.com/cape-functions/cape/host/internal/localkms/cms/testkit"
)

var testKey = sync.OnceValue(func() *rsa.PrivateKey {
	k, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		panic(err)
	}
	return k
})

func spki(t testing.TB, public any) []byte {
	t.Helper()
	der, err := x509.MarshalPKIXPublicKey(public)
	if err != nil {
		t.Fatal(err)
	}
	return der
}

// What AWS KMS wrote is what encode writes for the same fields, byte for byte.
func TestSameBytesAsAWS(t *testing.T) {
	text, err := os.ReadFile("testdata/expected.json")
	if err != nil {
		t.Fatal(err)
	}
	var expected map[string]struct {
		Key        string `json:"encrypted_key"`
		IV         string `json:"iv"`
		Ciphertext string `json:"ciphertext"`
	}
	if err := json.Unmarshal(text, &expected); err != nil {
		t.Fatal(err)
	}
	if len(expected) != 2 {
		t.Fatalf("%d fixtures, want 2", len(expected))
	}
	for name, want := range expected {
		t.Run(name, func(t *testing.T) {
			ber, err := os.ReadFile("testdata/" + name)
			if err != nil {
				t.Fatal(err)
			}
			p, err := open.Split(ber)
			if err != nil {
				t.Fatal(err)
			}
			if hex.EncodeToString(p.EncryptedKey) != want.Key || hex.EncodeToString(p.IV) != want.IV || hex.EncodeToString(p.Ciphertext) != want.Ciphertext {
				t.Fatal("the test's reader finds other fields than expected.json has")
			}
			got, err := encode(p.KeyID, p.EncryptedKey, p.IV, p.Ciphertext)
			if err != nil {
				t.Fatal(err)
			}
			if !bytes.Equal(got, ber) {
				t.Errorf("encode gives\n%x\nwant\n%x", got, ber)
			}
		})
	}
}

func TestEnvelopeRoundTrip(t *testing.T) {
	der := spki(t, &testKey().PublicKey)
	id := sha256.Sum256(der)
	for _, n := range []int{0, 1, 15, 16, 17, 32, 999, 1000, 1001, 2400, MaxPlaintext} {
		secret := make([]byte, n)
		_, _ = rand.Read(secret)
		ber, err := Envelope(der, secret)
		if err != nil {
			t.Fatal(err)
		}
		got, err := open.Open(ber, testKey())
		if err != nil {
			t.Fatalf("%d bytes: %v", n, err)
		}
		if !bytes.Equal(got, secret) {
			t.Errorf("%d bytes come back changed", n)
		}
		p, err := open.Split(ber)
		if err != nil || !bytes.Equal(p.KeyID, id[:]) {
			t.Errorf("%d bytes: recipient is not named by the hash of its key", n)
		}
		if n > 32 && bytes.Contains(ber, secret) {
			t.Errorf("%d bytes stand in plain in the envelope", n)
		}
	}
}

func TestEnvelopesDiffer(t *testing.T) {
	der := spki(t, &testKey().PublicKey)
	a, err := Envelope(der, []byte("same"))
	if err != nil {
		t.Fatal(err)
	}
	b, err := Envelope(der, []byte("same"))
	if err != nil {
		t.Fatal(err)
	}
	pa, _ := open.Split(a)
	pb, _ := open.Split(b)
	if bytes.Equal(pa.Ciphertext, pb.Ciphertext) || bytes.Equal(pa.IV, pb.IV) {
		t.Error("two envelopes of one secret share key or IV")
	}
}

func TestEnvelopeRefuses(t *testing.T) {
	small, err := rsa.GenerateKey(rand.Reader, 1024)
	if err != nil {
		t.Fatal(err)
	}
	ok := spki(t, &testKey().PublicKey)
	for _, tc := range []struct {
		name  string
		spki  []byte
		plain int
		want  error
	}{
		{"no key", nil, 1, ErrKey},
		{"garbage", []byte("garbage"), 1, ErrKey},
		{"X25519 key as runtimes attest it", make([]byte, 32), 1, ErrKey},
		{"elliptic curve", spki(t, &testkit.Key("curve").PublicKey), 1, ErrKey},
		{"RSA-1024", spki(t, &small.PublicKey), 1, ErrKey},
		{"PKCS #1", x509.MarshalPKCS1PublicKey(&testKey().PublicKey), 1, ErrKey},
		{"trailing byte", append(bytes.Clone(ok), 0), 1, ErrKey},
		{"too long", ok, MaxPlaintext + 1, ErrSize},
	} {
		t.Run(tc.name, func(t *testing.T) {
			if _, err := Envelope(tc.spki, make([]byte, tc.plain)); !errors.Is(err, tc.want) {
				t.Errorf("got %v, want %v", err, tc.want)
			}
		})
	}
}

func FuzzEnvelope(f *testing.F) {
	key := testKey()
	der := spki(f, &key.PublicKey)
	f.Add([]byte(nil))
	f.Add([]byte("sixteen bytes ok"))
	f.Add(bytes.Repeat([]byte{0x10}, 1016))
	f.Fuzz(func(t *testing.T, secret []byte) {
		ber, err := Envelope(der, secret)
		if len(secret) > MaxPlaintext {
			if !errors.Is(err, ErrSize) {
				t.Fatalf("%d bytes: %v", len(secret), err)
			}
			return
		}
		if err != nil {
			t.Fatal(err)
		}
		got, err := open.Open(ber, key)
		if err != nil || !bytes.Equal(got, secret) {
			t.Fatalf("does not come back: %v", err)
		}
	})
}

func FuzzParseKey(f *testing.F) {
	f.Add(spki(f, &testKey().PublicKey))
	f.Add([]byte{0x30, 0x80})
	f.Fuzz(func(t *testing.T, der []byte) {
		k, err := ParseKey(der)
		if err != nil {
			if !errors.Is(err, ErrKey) {
				t.Fatalf("unclassified error %v", err)
			}
			return
		}
		if again := spki(t, k); !bytes.Equal(again, der) {
			// Another encoding of the same key names another recipient.
			t.Logf("key has a second encoding")
		}
	})
}
