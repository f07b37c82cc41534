package envelope_test

import (
	"bytes"
	"crypto/aes"
	"crypto/cipher"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"encoding/base64"
	"errors"
	"io"
	"math/big"
	"slices"
	"sync"
	"testing"

	"github.com/cape-functions/cape/core/envelope"
	"github.com/cape-functions/cape/tools/vectorgen/vectors"
)

// testKeys are two keys of 2,048 bits. The first is a fixed one: fuzzing runs
// in several processes, and the seeds of one must open in the others.
var testKeys = sync.OnceValues(func() ([2]*rsa.PrivateKey, error) {
	fixed, err := vectors.ReadKeys(vectorDir)
	if err != nil {
		return [2]*rsa.PrivateKey{}, err
	}
	other, err := rsa.GenerateKey(rand.Reader, 2048)
	return [2]*rsa.PrivateKey{fixed["rsa-2048-a"], other}, err
})

func key(t testing.TB, i int) *rsa.PrivateKey {
	t.Helper()
	keys, err := testKeys()
	if err != nil {
		t.Fatal(err)
	}
	return keys[i]
}

func pattern(n int) []byte {
	p := make([]byte, n)
	for i := range p {
		p[i] = byte(i*7 + i>>8)
	}
	return p
}

func flipped(data []byte, at int) []byte {
	c := bytes.Clone(data)
	c[at] ^= 1
	return c
}

func sealOld(t testing.TB, plaintext []byte, raw bool) []byte {
	t.Helper()
	data, err := envelope.SealOld(&key(t, 0).PublicKey, plaintext, raw)
	if err != nil {
		t.Fatal(err)
	}
	return data
}

func TestOld(t *testing.T) {
	for _, size := range []int{0, 1, 2, 3, 5, 12, 48 << 10, 64<<10 - 1, 200001} {
		plaintext := pattern(size)
		raw, text := sealOld(t, plaintext, true), sealOld(t, plaintext, false)
		if want := 5 + 256 + 12 + size + 16; len(raw) != want {
			t.Errorf("raw: %d bytes, want %d", len(raw), want)
		}
		decoded, err := base64.StdEncoding.Strict().DecodeString(string(text[5:]))
		if err != nil || len(decoded) != len(raw)-5 || string(text[:5]) != "cape:" {
			t.Errorf("text of %d bytes is not the raw form in base64: %v", size, err)
		}
		for name, open := range map[string]func() ([]byte, error){
			"raw":           func() ([]byte, error) { return envelope.OpenOld(key(t, 0), raw, true) },
			"text":          func() ([]byte, error) { return envelope.OpenOld(key(t, 0), text, false) },
			"newline":       func() ([]byte, error) { return envelope.OpenOld(key(t, 0), append(slices.Clip(text), '\n'), false) },
			"text in place": func() ([]byte, error) { return envelope.OpenOldTextInPlace(key(t, 0), bytes.Clone(text)) },
		} {
			if got, err := open(); err != nil || !bytes.Equal(got, plaintext) {
				t.Errorf("%s of %d bytes: %v", name, size, err)
			}
		}
		got, err := envelope.OpenOldRawInPlace(key(t, 0), raw)
		if err != nil || !bytes.Equal(got, plaintext) {
			t.Errorf("raw in place of %d bytes: %v", size, err)
		}
		if size > 0 && &got[0] != &raw[5+256+12] {
			t.Error("raw in place is not in place")
		}
	}
}

func TestOpenOldLeavesData(t *testing.T) {
	for _, raw := range []bool{true, false} {
		data := sealOld(t, pattern(100), raw)
		before := bytes.Clone(data)
		if _, err := envelope.OpenOld(key(t, 0), data, raw); err != nil || !bytes.Equal(data, before) {
			t.Errorf("raw %v: data changed, or %v", raw, err)
		}
	}
}

func TestOpenOldRefuses(t *testing.T) {
	plaintext := pattern(1001) // padded as text
	raw, text := sealOld(t, plaintext, true), sealOld(t, plaintext, false)
	_, shortDEK := sealWithKeySize(t, 16)
	for _, c := range []struct {
		name string
		data []byte
		raw  bool
		want error
	}{
		{"nothing", nil, true, envelope.ErrFormat},
		{"no prefix", raw[5:], true, envelope.ErrFormat},
		{"prefix alone", raw[:5], true, envelope.ErrFormat},
		{"a byte short of key, nonce, tag", raw[:5+256+12+15], true, envelope.ErrFormat},
		{"cut", raw[:len(raw)-1], true, envelope.ErrDamaged},
		{"longer", append(slices.Clip(raw), 0), true, envelope.ErrDamaged},
		{"wrapped key changed", flipped(raw, 100), true, envelope.ErrDamaged},
		{"nonce changed", flipped(raw, 5+256), true, envelope.ErrDamaged},
		{"ciphertext changed", flipped(raw, 5+256+12), true, envelope.ErrDamaged},
		{"tag changed", flipped(raw, len(raw)-1), true, envelope.ErrDamaged},
		{"data key of 16 bytes", shortDEK, true, envelope.ErrFormat},
		{"text nothing", nil, false, envelope.ErrFormat},
		{"text as raw", text, true, envelope.ErrDamaged},
		{"raw as text", raw, false, envelope.ErrFormat},
		{"text cut within a group", text[:len(text)-1], false, envelope.ErrFormat},
		{"text cut after a group", text[:len(text)-4], false, envelope.ErrDamaged},
		{"two newlines", append(slices.Clip(text), "\n\n"...), false, envelope.ErrFormat},
		{"newline inside", slices.Insert(bytes.Clone(text), 100, '\n', '\n', '\n', '\n'), false, envelope.ErrFormat},
		{"space inside", slices.Insert(bytes.Clone(text), 100, ' ', ' ', ' ', ' '), false, envelope.ErrFormat},
		{"padding inside", append(slices.Clip(text), "AA=="...), false, envelope.ErrFormat},
		{"URL alphabet", []byte("cape:" + base64.URLEncoding.EncodeToString(raw[5:])), false, envelope.ErrFormat},
		{"new form", append([]byte("cape:v2,"), text[5:]...), false, envelope.ErrFormat},
	} {
		got, err := envelope.OpenOld(key(t, 0), c.data, c.raw)
		if !errors.Is(err, c.want) || got != nil {
			t.Errorf("%s: %v", c.name, err)
		}
	}
	if _, err := envelope.OpenOld(key(t, 1), raw, true); !errors.Is(err, envelope.ErrDamaged) {
		t.Errorf("another key: %v", err)
	}
	if _, err := envelope.OpenOld(nil, raw, true); !errors.Is(err, envelope.ErrKey) {
		t.Errorf("no key: %v", err)
	}
}

func TestKeySizes(t *testing.T) {
	sized := func(bits uint) *rsa.PublicKey {
		return &rsa.PublicKey{N: new(big.Int).SetBit(big.NewInt(1), int(bits)-1, 1), E: 65537}
	}
	for name, pub := range map[string]*rsa.PublicKey{
		"none": nil, "empty": {}, "a bit too short": sized(2047), "a bit too long": sized(4097),
	} {
		if _, err := envelope.SealOld(pub, nil, true); !errors.Is(err, envelope.ErrKey) {
			t.Errorf("old, %s: %v", name, err)
		}
		if _, err := envelope.NewWriter(io.Discard, pub, forFn, false); !errors.Is(err, envelope.ErrKey) {
			t.Errorf("new, %s: %v", name, err)
		}
	}
	for _, bits := range []uint{2048, 4096} {
		if _, err := envelope.SealOld(sized(bits), nil, true); err != nil {
			t.Errorf("%d bits: %v", bits, err)
		}
	}
}

// A padding where one block of text ends must not let more text follow.
func TestOldTextPaddingAtBlockEnd(t *testing.T) {
	const block = 64 << 10
	raw := sealOld(t, pattern(2*block), true)[5:]
	first := block/4*3 - 1
	text := slices.Concat([]byte("cape:"),
		[]byte(base64.StdEncoding.EncodeToString(raw[:first])),
		[]byte(base64.StdEncoding.EncodeToString(raw[first:])))
	if _, err := envelope.OpenOld(key(t, 0), text, false); !errors.Is(err, envelope.ErrFormat) {
		t.Errorf("padding at the end of a block: %v", err)
	}
}

// Stray bits in the last group would give one plaintext several texts.
func TestOldTextIsCanonical(t *testing.T) {
	const alphabet = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/"
	text := sealOld(t, pattern(3), false) // 256+12+3+16 bytes: one padding character
	at := len(text) - 2
	if text[len(text)-1] != '=' || text[at] == '=' {
		t.Fatal("the case needs one padding character")
	}
	text[at] = alphabet[bytes.IndexByte([]byte(alphabet), text[at])|1]
	if _, err := envelope.OpenOld(key(t, 0), text, false); !errors.Is(err, envelope.ErrFormat) {
		t.Errorf("stray bits: %v", err)
	}
}

func sealWithKeySize(t *testing.T, size int) (dek, sealed []byte) {
	t.Helper()
	dek = pattern(size)
	wrapped, err := rsa.EncryptOAEP(sha256.New(), rand.Reader, &key(t, 0).PublicKey, dek, nil)
	if err != nil {
		t.Fatal(err)
	}
	block, err := aes.NewCipher(dek)
	if err != nil {
		t.Fatal(err)
	}
	gcm, err := cipher.NewGCM(block)
	if err != nil {
		t.Fatal(err)
	}
	nonce := make([]byte, 12)
	return dek, gcm.Seal(slices.Concat([]byte("cape:"), wrapped, nonce), nonce, []byte("plaintext"), nil)
}

func TestDetect(t *testing.T) {
	for data, want := range map[string]envelope.Form{
		"": envelope.NotSealed, "cape": envelope.NotSealed, "Cape:": envelope.NotSealed, " cape:": envelope.NotSealed,
		"cape:": envelope.Old, "cape:AAAA": envelope.Old, "cape:v2": envelope.Old, "cape:v3:": envelope.Old,
		"cape:v2:": envelope.V2Binary, "cape:v2,AAAA": envelope.V2Text,
	} {
		if got := envelope.Detect([]byte(data)); got != want {
			t.Errorf("%q: %v", data, got)
		}
		if got := envelope.IsSealed([]byte(data)); got != (want != envelope.NotSealed) {
			t.Errorf("%q sealed: %v", data, got)
		}
	}
}

func FuzzOldRaw(f *testing.F) {
	f.Add([]byte("cape:"))
	f.Add(sealOld(f, nil, true))
	f.Add(sealOld(f, pattern(100), true))
	f.Fuzz(func(t *testing.T, data []byte) { fuzzOld(t, data, true) })
}

func FuzzOldText(f *testing.F) {
	f.Add([]byte("cape:AAAA\n"))
	f.Add(sealOld(f, nil, false))
	f.Add(append(sealOld(f, pattern(100), false), '\r', '\n'))
	f.Fuzz(func(t *testing.T, data []byte) { fuzzOld(t, data, false) })
}

// fuzzOld holds the two ways of opening against each other.
func fuzzOld(t *testing.T, data []byte, raw bool) {
	got, err := envelope.OpenOld(key(t, 0), data, raw)
	inPlace := envelope.OpenOldTextInPlace
	if raw {
		inPlace = envelope.OpenOldRawInPlace
	}
	again, errAgain := inPlace(key(t, 0), bytes.Clone(data))
	if (err == nil) != (errAgain == nil) || !bytes.Equal(got, again) {
		t.Errorf("%v, in place %v", err, errAgain)
	}
	if err != nil && !errors.Is(err, envelope.ErrFormat) && !errors.Is(err, envelope.ErrDamaged) {
		t.Errorf("unexpected error: %v", err)
	}
}
