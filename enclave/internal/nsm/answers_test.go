package nsm_test

import (
	"errors"
	"strings"
	"testing"

	"github.com/fxamacker/cbor/v2"

	"github.com/cape-functions/cape/enclave/internal/nsm"
	"github.com/cape-functions/cape/enclave/internal/nsm/testkit"
)

// mustCBOR encodes v; raw strings of hex stand for themselves in TestMalformedAnswers.
func mustCBOR(t *testing.T, v any) []byte {
	t.Helper()
	b, err := cbor.Marshal(v)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func TestMalformedAnswers(t *testing.T) {
	d, m := newDevice(t)
	pcr := map[string]any{"lock": true, "data": make([]byte, 48)}
	for _, tc := range []struct {
		name   string
		answer []byte
	}{
		{"empty", nil},
		{"garbage", []byte("\xff\xff\xff")},
		{"null", []byte{0xf6}},
		{"another answer", mustCBOR(t, map[string]any{"ExtendPCR": pcr})},
		{"name alone", mustCBOR(t, "DescribePCR")},
		{"two answers", mustCBOR(t, map[string]any{"DescribePCR": pcr, "Error": "InvalidIndex"})},
		{"fields are null", mustCBOR(t, map[string]any{"DescribePCR": nil})},
		{"fields are an array", mustCBOR(t, map[string]any{"DescribePCR": []any{true, make([]byte, 48)}})},
		{"trailing bytes", append(mustCBOR(t, map[string]any{"DescribePCR": pcr}), 0)},
		{"tag", append([]byte{0xd2}, mustCBOR(t, map[string]any{"DescribePCR": pcr})...)},
		{"short register", mustCBOR(t, map[string]any{"DescribePCR": map[string]any{"lock": true, "data": make([]byte, 32)}})},
		{"no register", mustCBOR(t, map[string]any{"DescribePCR": map[string]any{"lock": true}})},
		{"no lock", mustCBOR(t, map[string]any{"DescribePCR": map[string]any{"data": make([]byte, 48)}})},
		{"lock is a number", mustCBOR(t, map[string]any{"DescribePCR": map[string]any{"lock": 1, "data": make([]byte, 48)}})},
		{"field in capitals", mustCBOR(t, map[string]any{"DescribePCR": map[string]any{"Lock": true, "DATA": make([]byte, 48)}})},
		{"duplicate field", []byte("\xa1\x6bDescribePCR\xa3\x64lock\xf5\x64lock\xf4\x64data\x58\x30" + strings.Repeat("\x01", 48))},
		{"unknown code", mustCBOR(t, map[string]any{"Error": "Teapot"})},
		{"code is a number", mustCBOR(t, map[string]any{"Error": 7})},
		{"too large", mustCBOR(t, map[string]any{"DescribePCR": map[string]any{"lock": true, "data": make([]byte, 48), "x": strings.Repeat("x", nsm.MaxAnswer)}})},
		{"nesting", mustCBOR(t, map[string]any{"DescribePCR": map[string]any{"lock": true, "data": make([]byte, 48), "x": []any{[]any{[]any{[]any{[]any{[]any{}}}}}}}})},
	} {
		t.Run(tc.name, func(t *testing.T) {
			m.Answer = func([]byte) ([]byte, error, bool) { return tc.answer, nil, true }
			if v, _, err := d.PCR(0); !errors.Is(err, nsm.ErrAnswer) || !v.IsZero() {
				t.Errorf("got %v", err)
			}
		})
	}
}

func TestMalformedOtherAnswers(t *testing.T) {
	d, m := newDevice(t)
	answer := func(v any) {
		b := mustCBOR(t, v)
		m.Answer = func([]byte) ([]byte, error, bool) { return b, nil, true }
	}
	answer(map[string]any{"Attestation": map[string]any{"document": []byte{}}})
	if _, err := d.Attest(nsm.Request{}); !errors.Is(err, nsm.ErrAnswer) {
		t.Errorf("empty document: %v", err)
	}
	answer(map[string]any{"Attestation": map[string]any{"document": []byte("no document")}})
	if _, err := d.Time(); !errors.Is(err, nsm.ErrAnswer) {
		t.Errorf("document that is none: %v", err)
	}
	for name, payload := range map[string]any{"none": map[string]any{}, "zero": map[string]any{"timestamp": 0}, "negative": map[string]any{"timestamp": -1},
		"text": map[string]any{"timestamp": "now"}, "beyond the calendar": map[string]any{"timestamp": uint64(1) << 63}, "no map": 7} {
		document := mustCBOR(t, []any{[]byte{}, map[string]any{}, mustCBOR(t, payload), []byte{}})
		answer(map[string]any{"Attestation": map[string]any{"document": document}})
		if at, err := d.Time(); !errors.Is(err, nsm.ErrAnswer) {
			t.Errorf("timestamp: %s: %v, %v", name, at, err)
		}
	}
	answer(map[string]any{"LockPCR": map[string]any{}})
	if err := d.Lock(16); !errors.Is(err, nsm.ErrAnswer) {
		t.Errorf("lock with fields: %v", err)
	}
	answer("LockPCRs")
	if err := d.Lock(16); !errors.Is(err, nsm.ErrAnswer) {
		t.Errorf("answer to the other lock: %v", err)
	}
}

// The module of today writes indefinite lengths, and a newer one may add fields.
func TestAcceptedAnswers(t *testing.T) {
	d, m := newDevice(t)
	indefinite := []byte("\xbf\x6bDescribePCR\xbf\x64lock\xf5\x64data\x5f\x58\x30" + strings.Repeat("\x01", 48) + "\xff\x63new\x01\xff\xff")
	m.Answer = func([]byte) ([]byte, error, bool) { return indefinite, nil, true }
	value, locked, err := d.PCR(0)
	if err != nil || !locked || value[0] != 1 || value[47] != 1 {
		t.Errorf("%v %v %v", value, locked, err)
	}
}

func TestTransportErrorPasses(t *testing.T) {
	d, m := newDevice(t)
	m.Answer = func([]byte) ([]byte, error, bool) { return nil, nsm.ErrTransport, true }
	if err := d.Lock(1); !errors.Is(err, nsm.ErrTransport) {
		t.Errorf("got %v", err)
	}
}

func FuzzAnswer(f *testing.F) {
	pcr := map[string]any{"lock": true, "data": make([]byte, 48)}
	for _, v := range []any{"LockPCR", map[string]any{"DescribePCR": pcr}, map[string]any{"Error": "InvalidIndex"},
		map[string]any{"Attestation": map[string]any{"document": []byte("d")}}} {
		b, err := cbor.Marshal(v)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(b)
	}
	m := testkit.New("fuzz", noon)
	d := nsm.New(m)
	f.Fuzz(func(t *testing.T, answer []byte) {
		m.Answer = func([]byte) ([]byte, error, bool) { return answer, nil, true }
		if v, locked, err := d.PCR(1); err != nil && (locked || !v.IsZero()) {
			t.Error("values beside an error")
		}
		if doc, err := d.Attest(nsm.Request{}); err != nil && doc != nil {
			t.Error("document beside an error")
		}
		_, _ = d.Time()
		_ = d.Lock(1)
	})
}
