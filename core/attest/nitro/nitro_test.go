package nitro_test

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha512"
	"encoding/hex"
	"errors"
	"math/big"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/cape-functions/cape/core/attest/nitro"
	"github.com/cape-functions/cape/core/attest/testkit"
)

var at = time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)

func fixtures(t testing.TB) map[string][]byte {
	t.Helper()
	files, err := filepath.Glob("../testdata/*.cbor")
	if err != nil || len(files) < 6 {
		t.Fatalf("%d real documents, expected 6: %v", len(files), err)
	}
	out := make(map[string][]byte)
	for _, f := range files {
		raw, err := os.ReadFile(f)
		if err != nil {
			t.Fatal(err)
		}
		out[filepath.Base(f)] = raw
	}
	return out
}

// TestSignWritesWhatTheNSMWrites: signed again, a real document differs in the signature
// alone.
func TestSignWritesWhatTheNSMWrites(t *testing.T) {
	key := testkit.Key("any")
	for name, raw := range fixtures(t) {
		s, err := nitro.Parse(raw)
		if err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		again, err := nitro.Sign(s.Document, key, rand.Reader)
		if err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		unsigned := len(raw) - nitro.SignatureSize
		if len(again) != len(raw) || !bytes.Equal(again[:unsigned], raw[:unsigned]) {
			t.Errorf("%s: not the bytes of the NSM", name)
		}
	}
}

func TestSign(t *testing.T) {
	a := testkit.NewAuthority("nitro", at)
	for _, tt := range []struct {
		name   string
		change func(d *nitro.Document)
	}{
		{"plain", func(*nitro.Document) {}},
		{"nothing asked for", func(d *nitro.Document) { d.PublicKey, d.UserData, d.Nonce = nil, nil, nil }},
		{"empty, not absent", func(d *nitro.Document) { d.PublicKey, d.UserData, d.Nonce = []byte{}, []byte{}, []byte{} }},
		{"32 PCRs", func(d *nitro.Document) {
			for i := range nitro.MaxPCRs {
				d.PCRs[i] = testkit.PCR(i)
			}
		}},
		{"largest fields", func(d *nitro.Document) {
			d.PublicKey, d.UserData, d.Nonce = make([]byte, 1024), make([]byte, 1024), make([]byte, 1024)
			d.ModuleID = strings.Repeat("i", nitro.MaxModuleID)
		}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			want := a.Document(at)
			tt.change(&want)
			raw, err := nitro.Sign(want, a.LeafKey, rand.Reader)
			if err != nil {
				t.Fatal(err)
			}
			s, err := nitro.Parse(raw)
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(want, s.Document); diff != "" {
				t.Error(diff)
			}
			digest := sha512.Sum384(s.SignedBytes())
			r, v := new(big.Int).SetBytes(s.Signature[:48]), new(big.Int).SetBytes(s.Signature[48:])
			if !ecdsa.Verify(&a.LeafKey.PublicKey, digest[:], r, v) {
				t.Error("signature does not verify")
			}
		})
	}
}

func TestSignRefuses(t *testing.T) {
	a := testkit.NewAuthority("nitro", at)
	p256, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	for _, tt := range []struct {
		name   string
		key    *ecdsa.PrivateKey
		change func(d *nitro.Document)
	}{
		{"no key", nil, func(*nitro.Document) {}},
		{"key on P-256", p256, func(*nitro.Document) {}},
		{"no time", a.LeafKey, func(d *nitro.Document) { d.Timestamp = time.Time{} }},
		{"no module id", a.LeafKey, func(d *nitro.Document) { d.ModuleID = "" }},
		{"other digest", a.LeafKey, func(d *nitro.Document) { d.Digest = "SHA256" }},
		{"no PCR", a.LeafKey, func(d *nitro.Document) { d.PCRs = nil }},
		{"PCR 32", a.LeafKey, func(d *nitro.Document) { d.PCRs[32] = nitro.PCR{} }},
		{"PCR -1", a.LeafKey, func(d *nitro.Document) { d.PCRs[-1] = nitro.PCR{} }},
		{"no certificate", a.LeafKey, func(d *nitro.Document) { d.Certificate = nil }},
		{"no bundle", a.LeafKey, func(d *nitro.Document) { d.CABundle = nil }},
		{"user data too long", a.LeafKey, func(d *nitro.Document) { d.UserData = make([]byte, nitro.MaxUserData+1) }},
	} {
		t.Run(tt.name, func(t *testing.T) {
			d := a.Document(at)
			tt.change(&d)
			if raw, err := nitro.Sign(d, tt.key, rand.Reader); raw != nil || !errors.Is(err, nitro.ErrSign) {
				t.Errorf("%d bytes, %v", len(raw), err)
			}
		})
	}
}

// TestDraftIsSign: the testkit's own encoder and package nitro's agree byte for byte.
func TestDraftIsSign(t *testing.T) {
	a := testkit.NewAuthority("nitro", at)
	d := a.Document(at)
	if !bytes.Equal(a.Draft(d).Bytes(), a.Sign(d)) {
		t.Error("Draft and Sign differ")
	}
}

func TestParseAbsentAndEmpty(t *testing.T) {
	a := testkit.NewAuthority("nitro", at)
	for _, tt := range []struct {
		name  string
		draft func(d *testkit.Draft)
		want  []byte
	}{
		{"absent", func(d *testkit.Draft) { d.Drop("user_data") }, nil},
		{"null", func(d *testkit.Draft) { d.Set("user_data", []byte{testkit.Null}) }, nil},
		{"empty", func(d *testkit.Draft) { d.Set("user_data", testkit.BytesItem(nil)) }, []byte{}},
		{"empty in chunks", func(d *testkit.Draft) { d.Set("user_data", testkit.Chunks(testkit.Bytes, nil)) }, []byte{}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			draft := a.Draft(a.Document(at))
			tt.draft(draft)
			s, err := nitro.Parse(draft.Bytes())
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(tt.want, s.Document.UserData); diff != "" {
				t.Error(diff)
			}
		})
	}
}

// TestParseBounded: a document of the largest size, made of nothing but structure, costs
// no more than a small multiple of its bytes.
func TestParseBounded(t *testing.T) {
	for _, raw := range [][]byte{
		bytes.Repeat([]byte{0x81}, nitro.MaxDocument),
		bytes.Repeat([]byte{0x9f}, nitro.MaxDocument),
		append([]byte{0x9b, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff}, make([]byte, 100)...),
		append([]byte{0x84, 0x5b, 0x7f, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff}, make([]byte, 100)...),
		append([]byte{0x84, 0x44, 0xa1, 0x01, 0x38, 0x22, 0xbb, 0, 0, 0, 1, 0, 0, 0, 0}, make([]byte, 100)...),
	} {
		var before, after runtime.MemStats
		runtime.ReadMemStats(&before)
		_, err := nitro.Parse(raw)
		runtime.ReadMemStats(&after)
		if !errors.Is(err, nitro.ErrMalformed) {
			t.Errorf("%x…: %v", raw[:8], err)
		}
		if got := after.TotalAlloc - before.TotalAlloc; got > 16*nitro.MaxDocument {
			t.Errorf("%x…: %d bytes allocated", raw[:8], got)
		}
	}
}

func TestPCR(t *testing.T) {
	text := "ea4212eebcdf05fe" + strings.Repeat("0f", 40)
	p, err := nitro.ParsePCR(strings.ToUpper(text))
	if err != nil || p.String() != text {
		t.Errorf("%s, %v", p, err)
	}
	if p.IsZero() || !(nitro.PCR{}).IsZero() {
		t.Error("IsZero")
	}
	var q nitro.PCR
	marshalled, err := p.MarshalText()
	if err != nil || q.UnmarshalText(marshalled) != nil || p != q {
		t.Errorf("%s, %s, %v", p, q, err)
	}
	for _, bad := range []string{"", "00", text[1:], text + "00", "0x" + text[2:], strings.Repeat("g", 96), " " + text[1:]} {
		if _, err := nitro.ParsePCR(bad); !errors.Is(err, nitro.ErrPCRFormat) {
			t.Errorf("%q: %v", bad, err)
		}
		if err := q.UnmarshalText([]byte(bad)); !errors.Is(err, nitro.ErrPCRFormat) {
			t.Errorf("%q: %v", bad, err)
		}
	}
}

// TestExtend computes the PCR of an image part as nitro-cli does, by hand.
func TestExtend(t *testing.T) {
	part := sha512.Sum384([]byte("abc"))
	want := sha512.Sum384(append(make([]byte, 48), part[:]...))
	if got := nitro.Extend(nitro.PCR{}, part[:]); got != nitro.PCR(want) {
		t.Errorf("got %s", got)
	}
	// SHA-384 of 48 zero bytes and nothing, from sha384sum.
	zero := "8f0d145c0368ad6b70be22e41c400eea91b971d96ba220fec9fae25a58dffdaaf72dbe8f6783d55128c9df4efaf6f8a7"
	if got := nitro.Extend(nitro.PCR{}, nil); hex.EncodeToString(got[:]) != zero {
		t.Errorf("got %s", got)
	}
}
