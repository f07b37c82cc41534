package seal_test

import (
	"errors"
	"testing"

	"github.com/cape-functions/cape/core/seal"
	"github.com/cape-functions/cape/core/wire"
	"github.com/cape-functions/cape/tools/vectorgen/vectors"
)

func FuzzOpen(f *testing.F) {
	all, err := vectors.Read("../../spec/vectors", vectors.KindOpen)
	if err != nil {
		f.Fatal(err)
	}
	for _, s := range all {
		var in vectors.OpenInput
		if err := vectors.Decode(s.Input, &in); err != nil {
			f.Fatal(err)
		}
		o, err := seal.OpenPlaintext(wire.KEM(in.KEM), in.Private, in.Hello, in.Attest, in.Frame)
		if err == nil {
			f.Add(o)
		}
	}
	transcript := seal.Transcript([]byte("hello"), []byte("attest"))
	f.Fuzz(func(t *testing.T, plaintext []byte) {
		if _, err := seal.ParseOpen(plaintext, transcript); err != nil && !errors.Is(err, wire.ErrMalformed) && !errors.Is(err, seal.ErrAuthority) {
			t.Errorf("unnamed error %v", err)
		}
	})
}

func FuzzVerifyReceipt(f *testing.F) {
	all, err := vectors.Read("../../spec/vectors", vectors.KindReceipt)
	if err != nil {
		f.Fatal(err)
	}
	var in vectors.ReceiptInput
	for _, s := range all {
		in = vectors.ReceiptInput{}
		if err := vectors.Decode(s.Input, &in); err != nil {
			f.Fatal(err)
		}
		f.Add(in.Receipt)
	}
	f.Fuzz(func(t *testing.T, raw []byte) {
		if _, err := seal.VerifyReceiptWith(raw, []byte(in.Key), in.Doc, in.Nonce); err != nil && !errors.Is(err, seal.ErrReceipt) {
			t.Errorf("unnamed error %v", err)
		}
	})
}
