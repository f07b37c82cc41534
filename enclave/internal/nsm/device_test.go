package nsm_test

import (
	"bytes"
	"errors"
	"testing"
	"time"

	"github.com/fxamacker/cbor/v2"
	"github.com/google/go-cmp/cmp"

	"github.com/cape-functions/cape/core/attest/nitro"
	attestkit "github.com/cape-functions/cape/core/attest/testkit"
	"github.com/cape-functions/cape/enclave/internal/nsm"
	"github.com/cape-functions/cape/enclave/internal/nsm/testkit"
)

func noon() time.Time { return time.Date(2026, 3, 4, 12, 0, 0, int(250*time.Millisecond), time.UTC) }

func newDevice(t *testing.T) (*nsm.Device, *testkit.Module) {
	t.Helper()
	m := testkit.New("nsm test", noon)
	d := nsm.New(m)
	t.Cleanup(func() { d.Close() })
	return d, m
}

func TestAttest(t *testing.T) {
	d, m := newDevice(t)
	for _, tc := range []struct {
		name string
		req  nsm.Request
	}{
		{"nothing", nsm.Request{}},
		{"everything", nsm.Request{Nonce: []byte("n"), UserData: []byte("u"), PublicKey: []byte("p")}},
		{"user data alone", nsm.Request{UserData: bytes.Repeat([]byte("u"), 512)}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			raw, err := d.Attest(tc.req)
			if err != nil {
				t.Fatal(err)
			}
			s, err := nitro.Parse(raw)
			if err != nil {
				t.Fatal(err)
			}
			got := nsm.Request{Nonce: s.Document.Nonce, UserData: s.Document.UserData, PublicKey: s.Document.PublicKey}
			if diff := cmp.Diff(tc.req, got); diff != "" {
				t.Error(diff)
			}
			if s.Document.ModuleID != m.Authority.Document(noon()).ModuleID {
				t.Error("another module")
			}
		})
	}
	if _, err := d.Attest(nsm.Request{UserData: make([]byte, 1025)}); !errors.Is(err, nsm.ErrTooLarge) {
		t.Errorf("user data of 1025 bytes: %v", err)
	}
}

func TestRegisters(t *testing.T) {
	d, _ := newDevice(t)
	value, locked, err := d.PCR(8)
	if err != nil || !locked || value != attestkit.PCR(8) {
		t.Fatalf("PCR8: %v %v %v", value, locked, err)
	}
	got, err := d.Extend(16, []byte("trust"))
	if want := nitro.Extend(nitro.PCR{}, []byte("trust")); err != nil || got != want {
		t.Fatalf("extend: %v %v", got, err)
	}
	if _, locked, _ := d.PCR(16); locked {
		t.Error("PCR16 is locked before it was")
	}
	if err := d.Lock(16); err != nil {
		t.Fatal(err)
	}
	if _, locked, _ := d.PCR(16); !locked {
		t.Error("PCR16 is not locked")
	}
	if _, err := d.Extend(16, []byte("more")); !errors.Is(err, nsm.ErrReadOnlyIndex) {
		t.Errorf("extending a locked register: %v", err)
	}
	if s, _ := d.Attest(nsm.Request{}); len(s) == 0 {
		t.Error("no document")
	}
}

func TestIndexesOutOfRange(t *testing.T) {
	d, m := newDevice(t)
	m.Answer = func([]byte) ([]byte, error, bool) { t.Error("asked the module"); return nil, nil, true }
	for _, i := range []int{-1, 32, 1 << 16} {
		if _, _, err := d.PCR(i); !errors.Is(err, nsm.ErrInvalidIndex) {
			t.Errorf("PCR(%d): %v", i, err)
		}
		if _, err := d.Extend(i, nil); !errors.Is(err, nsm.ErrInvalidIndex) {
			t.Errorf("Extend(%d): %v", i, err)
		}
		if err := d.Lock(i); !errors.Is(err, nsm.ErrInvalidIndex) {
			t.Errorf("Lock(%d): %v", i, err)
		}
	}
	if _, err := d.Extend(20, make([]byte, nsm.MaxRequest)); !errors.Is(err, nsm.ErrTooLarge) {
		t.Errorf("a request of more than the driver takes: %v", err)
	}
}

func TestTime(t *testing.T) {
	d, _ := newDevice(t)
	at, err := d.Time()
	if err != nil || !at.Equal(noon()) {
		t.Errorf("time %v, %v", at, err)
	}
}

func TestWireForm(t *testing.T) {
	d, m := newDevice(t)
	var got []byte
	m.Answer = func(req []byte) ([]byte, error, bool) { got = req; return nil, nil, false }
	for _, tc := range []struct {
		name string
		call func()
		want any
	}{
		{"attestation", func() { _, _ = d.Attest(nsm.Request{Nonce: []byte("n")}) },
			map[any]any{"Attestation": map[any]any{"nonce": []byte("n"), "user_data": nil, "public_key": nil}}},
		{"describe PCR", func() { _, _, _ = d.PCR(3) }, map[any]any{"DescribePCR": map[any]any{"index": uint64(3)}}},
		{"extend", func() { _, _ = d.Extend(16, []byte("d")) }, map[any]any{"ExtendPCR": map[any]any{"index": uint64(16), "data": []byte("d")}}},
		{"lock", func() { _ = d.Lock(17) }, map[any]any{"LockPCR": map[any]any{"index": uint64(17)}}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			tc.call()
			var v any
			if err := cbor.Unmarshal(got, &v); err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(tc.want, v); diff != "" {
				t.Error(diff)
			}
		})
	}
}

func TestCodes(t *testing.T) {
	d, m := newDevice(t)
	for _, code := range []nsm.Code{nsm.ErrInvalidArgument, nsm.ErrInvalidIndex, nsm.ErrInvalidResponse, nsm.ErrReadOnlyIndex,
		nsm.ErrInvalidOperation, nsm.ErrBufferTooSmall, nsm.ErrInputTooLarge, nsm.ErrInternal} {
		t.Run(string(code), func(t *testing.T) {
			m.Answer = func([]byte) ([]byte, error, bool) {
				b, err := cbor.Marshal(map[string]string{"Error": string(code)})
				return b, err, true
			}
			_, errAttest := d.Attest(nsm.Request{})
			_, _, errPCR := d.PCR(0)
			_, errExtend := d.Extend(16, nil)
			_, errTime := d.Time()
			for _, err := range []error{errAttest, errPCR, errExtend, errTime, d.Lock(16)} {
				if !errors.Is(err, code) {
					t.Errorf("got %v", err)
				}
			}
		})
	}
}

func TestNoDeviceHere(t *testing.T) {
	tr, err := nsm.OpenDevice()
	if err == nil {
		tr.Close()
		t.Skip("this machine is an enclave")
	}
	if !errors.Is(err, nsm.ErrTransport) {
		t.Errorf("got %v", err)
	}
}
