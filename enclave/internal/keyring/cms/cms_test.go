package cms_test

import (
	"bytes"
	"crypto/rand"
	"crypto/rsa"
	"encoding/hex"
	"encoding/json"
	"errors"
	"os"
	"path/filepath"
	"sync"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/cape-functions/cape/enclave/internal/keyring/cms"
	"github.com/cape-functions/cape/enclave/internal/keyring/testkit"
)

var testKey = sync.OnceValue(func() *rsa.PrivateKey {
	k, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		panic(err)
	}
	return k
})

func readFile(t testing.TB, name string) []byte {
	t.Helper()
	b, err := os.ReadFile(filepath.Join("testdata", name))
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func TestRealAnswers(t *testing.T) {
	var want map[string]struct {
		Key string `json:"encrypted_key"`
		IV  string `json:"iv"`
		CT  string `json:"ciphertext"`
	}
	if err := json.Unmarshal(readFile(t, "expected.json"), &want); err != nil || len(want) != 2 {
		t.Fatalf("%d expectations, %v", len(want), err)
	}
	for name, w := range want {
		t.Run(name, func(t *testing.T) {
			blob := readFile(t, name)
			e, err := cms.Parse(blob)
			if err != nil {
				t.Fatal(err)
			}
			got := []string{hex.EncodeToString(e.EncryptedKey), hex.EncodeToString(e.IV), hex.EncodeToString(e.Ciphertext)}
			if diff := cmp.Diff([]string{w.Key, w.IV, w.CT}, got); diff != "" {
				t.Error(diff)
			}
			if _, err := cms.Open(blob, testKey()); !errors.Is(err, cms.ErrOpen) {
				t.Errorf("opened with another key: %v", err)
			}
			for n := range blob {
				if _, err := cms.Parse(blob[:n]); !errors.Is(err, cms.ErrMalformed) {
					t.Fatalf("cut after %d bytes: %v", n, err)
				}
			}
		})
	}
}

func TestOpen(t *testing.T) {
	for _, tc := range []struct {
		name    string
		size    int
		segment int
	}{
		{"empty, constructed", 0, 16},
		{"empty, primitive", 0, 0},
		{"data key, one segment", 32, 48},
		{"data key, many segments", 32, 5},
		{"data key, primitive", 32, 0},
		{"private key, constructed", 2400, 1000},
		{"private key, primitive", 2400, 0},
	} {
		t.Run(tc.name, func(t *testing.T) {
			plain := bytes.Repeat([]byte{0xc5}, tc.size)
			e := testkit.Seal(&testKey().PublicKey, plain)
			e.Segment = tc.segment
			got, err := cms.Open(e.BER(), testKey())
			if err != nil {
				t.Fatal(err)
			}
			if !bytes.Equal(got.Reveal(), plain) {
				t.Errorf("%d bytes instead of %d", got.Len(), len(plain))
			}
		})
	}
}

// The shape, with each part replaceable.
type shape struct {
	contentType, version, recipientVersion, recipientID, keyAlgorithm, encryptedKey []byte
	dataType, contentAlgorithm, content                                             []byte
	recipients, afterRecipients, afterContent, trailing                             []byte
}

func newShape() *shape {
	e := testkit.Seal(&testKey().PublicKey, []byte("plaintext"))
	return &shape{
		contentType: testkit.EnvelopedOID, version: testkit.Version2, recipientVersion: testkit.Version2,
		recipientID: testkit.TLV(0x80, e.KeyID), keyAlgorithm: testkit.OAEP, encryptedKey: testkit.TLV(0x04, e.EncryptedKey),
		dataType: testkit.DataOID, contentAlgorithm: testkit.TLV(0x30, testkit.AESOID, testkit.TLV(0x04, e.IV)),
		content: testkit.TLV(0x80, e.Ciphertext),
	}
}

func (s *shape) recipient() []byte {
	return testkit.TLV(0x30, s.recipientVersion, s.recipientID, s.keyAlgorithm, s.encryptedKey)
}

func (s *shape) BER() []byte {
	if s.recipients == nil {
		s.recipients = testkit.TLV(0x31, s.recipient())
	}
	info := testkit.Indefinite(0x30, s.dataType, s.contentAlgorithm, s.content)
	data := testkit.Indefinite(0x30, s.version, s.recipients, s.afterRecipients, info, s.afterContent)
	return append(testkit.Indefinite(0x30, s.contentType, testkit.Indefinite(0xa0, data)), s.trailing...)
}

func nested(tag byte, depth int) []byte {
	b := []byte{}
	for range depth {
		b = testkit.Indefinite(tag, b)
	}
	return b
}

func TestMalformed(t *testing.T) {
	if _, err := cms.Open(newShape().BER(), testKey()); err != nil {
		t.Fatalf("the unchanged shape: %v", err)
	}
	tlv, octets := testkit.TLV, func(n int) []byte { return testkit.TLV(0x04, make([]byte, n)) }
	oaepSHA1 := bytes.ReplaceAll(testkit.OAEP, []byte{0x60, 0x86, 0x48, 0x01, 0x65, 0x03, 0x04, 0x02, 0x01}, []byte{0x60, 0x86, 0x48, 0x01, 0x65, 0x03, 0x04, 0x02, 0x02})
	for _, tc := range []struct {
		name   string
		change func(s *shape)
	}{
		{"trailing byte", func(s *shape) { s.trailing = []byte{0} }},
		{"trailing element", func(s *shape) { s.trailing = octets(1) }},
		{"trailing end mark", func(s *shape) { s.trailing = []byte{0, 0} }},
		{"SignedData", func(s *shape) {
			s.contentType = tlv(0x06, []byte{0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 0x01, 0x07, 0x02})
		}},
		{"content of another type", func(s *shape) { s.dataType = testkit.EnvelopedOID }},
		{"version 0", func(s *shape) { s.version = tlv(0x02, []byte{0}) }},
		{"version of two bytes", func(s *shape) { s.version = tlv(0x02, []byte{0, 2}) }},
		{"recipient version 0", func(s *shape) { s.recipientVersion = tlv(0x02, []byte{0}) }},
		{"no recipient", func(s *shape) { s.recipients = tlv(0x31) }},
		{"two recipients", func(s *shape) { s.recipients = tlv(0x31, s.recipient(), s.recipient()) }},
		{"recipients as a sequence", func(s *shape) { s.recipients = tlv(0x30, s.recipient()) }},
		{"recipient by issuer and serial", func(s *shape) { s.recipientID = tlv(0x30, octets(4)) }},
		{"recipient without a key identifier", func(s *shape) { s.recipientID = tlv(0x80) }},
		{"key identifier too long", func(s *shape) { s.recipientID = tlv(0x80, make([]byte, 65)) }},
		{"PKCS#1 v1.5", func(s *shape) {
			s.keyAlgorithm = tlv(0x30, tlv(0x06, []byte{0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 0x01, 0x01, 0x01}), []byte{5, 0})
		}},
		{"OAEP with another hash", func(s *shape) { s.keyAlgorithm = oaepSHA1 }},
		{"OAEP with defaults", func(s *shape) { s.keyAlgorithm = tlv(0x30, testkit.OAEP[2:13], tlv(0x30)) }},
		{"OAEP without parameters", func(s *shape) { s.keyAlgorithm = tlv(0x30, testkit.OAEP[2:13]) }},
		{"OAEP with a label", func(s *shape) {
			params := append(bytes.Clone(testkit.OAEP[15:]), tlv(0xa2, octets(1))...)
			s.keyAlgorithm = tlv(0x30, testkit.OAEP[2:13], tlv(0x30, params))
		}},
		{"encrypted key constructed", func(s *shape) { s.encryptedKey = tlv(0x24, s.encryptedKey) }},
		{"more in the recipient", func(s *shape) { s.encryptedKey = append(s.encryptedKey, 5, 0) }},
		{"AES-128", func(s *shape) {
			s.contentAlgorithm = bytes.Replace(s.contentAlgorithm, []byte{0x04, 0x01, 0x2a}, []byte{0x04, 0x01, 0x02}, 1)
		}},
		{"no IV", func(s *shape) { s.contentAlgorithm = tlv(0x30, testkit.AESOID) }},
		{"short IV", func(s *shape) { s.contentAlgorithm = tlv(0x30, testkit.AESOID, octets(12)) }},
		{"long IV", func(s *shape) { s.contentAlgorithm = tlv(0x30, testkit.AESOID, octets(17)) }},
		{"more after the IV", func(s *shape) { s.contentAlgorithm = tlv(0x30, testkit.AESOID, octets(16), octets(1)) }},
		{"no content", func(s *shape) { s.content = nil }},
		{"empty content", func(s *shape) { s.content = tlv(0x80) }},
		{"empty constructed content", func(s *shape) { s.content = testkit.Indefinite(0xa0) }},
		{"content of no whole blocks", func(s *shape) { s.content = tlv(0x80, make([]byte, 17)) }},
		{"segments of another type", func(s *shape) { s.content = testkit.Indefinite(0xa0, tlv(0x02, make([]byte, 16))) }},
		{"segments within segments", func(s *shape) { s.content = testkit.Indefinite(0xa0, testkit.Indefinite(0x24, octets(16))) }},
		{"deep segments", func(s *shape) { s.content = testkit.Indefinite(0xa0, nested(0x24, 500)) }},
		{"end mark within a definite length", func(s *shape) { s.content = tlv(0xa0, octets(16), []byte{0, 0}) }},
		{"end mark with content", func(s *shape) { s.content = append([]byte{0xa0, 0x80}, 0x00, 0x01, 0x00, 0x00, 0x00) }},
		{"attributes", func(s *shape) { s.afterContent = tlv(0xa1, octets(1)) }},
		{"originator", func(s *shape) { s.version = append(bytes.Clone(testkit.Version2), tlv(0xa0)...) }},
		{"two contents", func(s *shape) { s.afterRecipients = tlv(0x30, octets(1)) }},
		{"primitive of indefinite length", func(s *shape) { s.content = testkit.Indefinite(0x80, make([]byte, 16)) }},
		{"tag of several bytes", func(s *shape) { s.content = append([]byte{0xbf, 0x1f, 16}, make([]byte, 16)...) }},
		{"length in more bytes than needed", func(s *shape) { s.content = append([]byte{0x80, 0x81, 16}, make([]byte, 16)...) }},
		{"length of three bytes", func(s *shape) { s.content = append([]byte{0x80, 0x83, 0, 0, 16}, make([]byte, 16)...) }},
		{"length beyond the end", func(s *shape) { s.trailing, s.content = nil, []byte{0x80, 0x82, 0xff, 0xf0} }},
		{"too large", func(s *shape) { s.content = tlv(0x80, make([]byte, cms.MaxSize)) }},
	} {
		t.Run(tc.name, func(t *testing.T) {
			s := newShape()
			tc.change(s)
			if e, err := cms.Parse(s.BER()); e != nil || !errors.Is(err, cms.ErrMalformed) {
				t.Errorf("got %v", err)
			}
			if _, err := cms.Open(s.BER(), testKey()); !errors.Is(err, cms.ErrMalformed) {
				t.Errorf("opened: %v", err)
			}
		})
	}
	for name, blob := range map[string][]byte{"nothing": nil, "one byte": {0x30}, "nesting alone": bytes.Repeat([]byte{0x30, 0x80}, 3000)} {
		if _, err := cms.Parse(blob); !errors.Is(err, cms.ErrMalformed) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// Other encoders leave the NULL of SHA-256 out, or use definite lengths throughout.
func TestAcceptedVariants(t *testing.T) {
	oid := testkit.TLV(0x06, []byte{0x60, 0x86, 0x48, 0x01, 0x65, 0x03, 0x04, 0x02, 0x01})
	hash := testkit.TLV(0x30, oid)
	mgf := testkit.TLV(0x06, []byte{0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 0x01, 0x01, 0x08})
	s := newShape()
	s.keyAlgorithm = testkit.TLV(0x30, testkit.OAEP[2:13],
		testkit.TLV(0x30, testkit.TLV(0xa0, hash), testkit.TLV(0xa1, testkit.TLV(0x30, mgf, hash))))
	if _, err := cms.Open(s.BER(), testKey()); err != nil {
		t.Errorf("without NULL: %v", err)
	}
	s = newShape()
	definite := testkit.TLV(0x30, s.contentType, testkit.TLV(0xa0, testkit.TLV(0x30, s.version,
		testkit.TLV(0x31, s.recipient()), testkit.TLV(0x30, s.dataType, s.contentAlgorithm, s.content))))
	if _, err := cms.Open(definite, testKey()); err != nil {
		t.Errorf("definite lengths: %v", err)
	}
}

func TestWrongKeyMaterial(t *testing.T) {
	pub := &testKey().PublicKey
	short, err := rsaOAEP(pub, make([]byte, 16))
	if err != nil {
		t.Fatal(err)
	}
	key := make([]byte, 32)
	good, err := rsaOAEP(pub, key)
	if err != nil {
		t.Fatal(err)
	}
	padded := func(last ...byte) []byte { return append(make([]byte, 32-len(last)), last...) }
	for _, tc := range []struct {
		name   string
		change func(e *testkit.Envelope)
	}{
		{"key of 16 bytes", func(e *testkit.Envelope) {
			e.EncryptedKey = short
			e.SealRaw(make([]byte, 16), bytes.Repeat([]byte{16}, 16))
		}},
		{"encrypted key cut", func(e *testkit.Envelope) { e.EncryptedKey = e.EncryptedKey[1:] }},
		{"encrypted key changed", func(e *testkit.Envelope) { e.EncryptedKey[9] ^= 1 }},
		{"encrypted key empty", func(e *testkit.Envelope) { e.EncryptedKey = nil }},
		{"padding of zero", func(e *testkit.Envelope) { e.EncryptedKey = good; e.SealRaw(key, padded(0)) }},
		{"padding of 17", func(e *testkit.Envelope) { e.EncryptedKey = good; e.SealRaw(key, bytes.Repeat([]byte{17}, 32)) }},
		{"padding that differs", func(e *testkit.Envelope) { e.EncryptedKey = good; e.SealRaw(key, padded(2, 3, 3)) }},
	} {
		t.Run(tc.name, func(t *testing.T) {
			e := testkit.Seal(pub, []byte("plaintext"))
			tc.change(e)
			if got, err := cms.Open(e.BER(), testKey()); !errors.Is(err, cms.ErrOpen) || got.Len() != 0 {
				t.Errorf("got %v", err)
			}
		})
	}
}

func FuzzParse(f *testing.F) {
	f.Add(readFile(f, "recipient-constructed.ber"))
	f.Add(readFile(f, "recipient-primitive.ber"))
	f.Add(newShape().BER())
	f.Add(bytes.Repeat([]byte{0x30, 0x80}, 20))
	f.Fuzz(func(t *testing.T, blob []byte) {
		e, err := cms.Parse(blob)
		if err != nil {
			if e != nil || !errors.Is(err, cms.ErrMalformed) {
				t.Fatal("a result beside an error, or an error of no class")
			}
			return
		}
		if len(e.IV) != 16 || len(e.Ciphertext) == 0 || len(e.Ciphertext)%16 != 0 || len(e.Ciphertext) > len(blob) {
			t.Fatalf("accepted IV of %d and content of %d bytes", len(e.IV), len(e.Ciphertext))
		}
		// What was read, written anew, reads the same.
		out := testkit.Envelope{KeyID: []byte{1}, EncryptedKey: e.EncryptedKey, IV: e.IV, Ciphertext: e.Ciphertext}
		again, err := cms.Parse(out.BER())
		if len(out.BER()) <= cms.MaxSize && (err != nil || !cmp.Equal(e, again, cmp.Comparer(bytes.Equal))) {
			t.Fatalf("not the same again: %v", err)
		}
	})
}
