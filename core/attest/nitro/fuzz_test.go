package nitro_test

import (
	"bytes"
	"errors"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/cape-functions/cape/core/attest/nitro"
	"github.com/cape-functions/cape/core/attest/testkit"
)

// FuzzParse: no input panics; what parses keeps to its limits; written again it parses to
// the same document, and written once more to the same bytes.
func FuzzParse(f *testing.F) {
	for _, raw := range fixtures(f) {
		f.Add(raw)
	}
	for _, c := range testkit.Cases() {
		if c.Want == "accept" || c.Want == "malformed" {
			f.Add(c.Document)
		}
	}
	key := testkit.Key("fuzz")
	f.Fuzz(func(t *testing.T, raw []byte) {
		kept := bytes.Clone(raw)
		s, err := nitro.Parse(raw)
		if !bytes.Equal(raw, kept) {
			t.Fatal("the input was changed")
		}
		if err != nil {
			if s != nil || !errors.Is(err, nitro.ErrMalformed) {
				t.Fatalf("result %v with error %v", s != nil, err)
			}
			return
		}
		checkLimits(t, raw, s)
		clear(raw)
		again, err := nitro.Sign(s.Document, key, nil)
		if err != nil {
			t.Fatalf("writing again: %v", err)
		}
		s2, err := nitro.Parse(again)
		if err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(s.Document, s2.Document); diff != "" {
			t.Fatal(diff)
		}
		if third, err := nitro.Sign(s2.Document, key, nil); err != nil || !bytes.Equal(again, third) {
			t.Fatalf("not stable: %v", err)
		}
	})
}

func checkLimits(t *testing.T, raw []byte, s *nitro.Signed) {
	d := s.Document
	if len(raw) > nitro.MaxDocument || len(s.Signature) != nitro.SignatureSize || !bytes.Contains(s.SignedBytes(), s.Payload) {
		t.Fatal("size, signature or signed bytes")
	}
	if len(d.ModuleID) == 0 || len(d.ModuleID) > nitro.MaxModuleID || d.Digest != nitro.DigestSHA384 || d.Timestamp.UnixMilli() <= 0 {
		t.Fatal("module id, digest or timestamp")
	}
	if len(d.CABundle) == 0 || len(d.CABundle) > nitro.MaxCABundle {
		t.Fatal("bundle")
	}
	for _, der := range append(d.CABundle[:len(d.CABundle):len(d.CABundle)], d.Certificate) {
		if len(der) == 0 || len(der) > nitro.MaxCertificate {
			t.Fatal("certificate")
		}
	}
	if len(d.PublicKey) > nitro.MaxPublicKey || len(d.UserData) > nitro.MaxUserData || len(d.Nonce) > nitro.MaxNonce {
		t.Fatal("caller's fields")
	}
	if len(d.PCRs) == 0 {
		t.Fatal("no PCR")
	}
	for i := range d.PCRs {
		if i < 0 || i >= nitro.MaxPCRs {
			t.Fatal("PCR index")
		}
	}
}
