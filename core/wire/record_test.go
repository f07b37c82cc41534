package wire_test

import (
	"bytes"
	"errors"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/cape-functions/cape/core/wire"
)

func TestDataRecords(t *testing.T) {
	for _, id := range []uint64{1, 23, 24, 255, 256, 65535, 65536, 1<<32 - 1, 1 << 32, 1<<64 - 1} {
		head := wire.AppendDataHead(nil, id)
		if len(head) > wire.MaxDataHead {
			t.Errorf("%d: %d bytes before the payload", id, len(head))
		}
		encoded, err := wire.Marshal(id)
		if err != nil || !bytes.Equal(head[1:], encoded) {
			t.Errorf("%d is encoded as %x", id, head[1:])
		}
		got, payload, err := wire.ParseData(append(head, "payload"...))
		if err != nil || got != id || string(payload) != "payload" {
			t.Errorf("%d: %d %q %v", id, got, payload, err)
		}
	}
	for name, record := range map[string][]byte{
		"nothing":          {},
		"type alone":       {2},
		"id alone":         {2, 1},
		"another type":     {3, 1, 'x'},
		"id 0":             {2, 0, 'x'},
		"id in two bytes":  {2, 24, 23, 'x'},
		"id in three":      {2, 25, 0, 255, 'x'},
		"id in five":       {2, 26, 0, 0, 255, 255, 'x'},
		"id in nine":       {2, 27, 0, 0, 0, 0, 255, 255, 255, 255, 'x'},
		"id cut":           {2, 25, 1},
		"reserved head":    append([]byte{2, 28}, bytes.Repeat([]byte{1}, 20)...),
		"negative id":      {2, 0x20, 'x'},
		"long id alone":    {2, 24, 24},
		"payload too long": append([]byte{2, 1}, make([]byte, wire.DataPayload+1)...),
	} {
		if id, _, err := wire.ParseData(record); !errors.Is(err, wire.ErrMalformed) {
			t.Errorf("%s: %d, %v", name, id, err)
		}
	}
	if _, payload, err := wire.ParseData(append([]byte{2, 1}, make([]byte, wire.DataPayload)...)); err != nil || len(payload) != wire.DataPayload {
		t.Errorf("the longest payload: %d, %v", len(payload), err)
	}
	record := append(wire.AppendDataHead(nil, 300), "x"...)
	if n := testing.AllocsPerRun(100, func() { _, _, _ = wire.ParseData(record) }); n != 0 {
		t.Errorf("ParseData allocates %v times", n)
	}
}

// Whoever may not send a record is refused, whatever is in it.
func TestRecordsOfTheOtherSide(t *testing.T) {
	id := uint64(1)
	client := []wire.Message{&wire.Begin{ID: 1, Kind: wire.KindInput}, &wire.Cancel{ID: 1}}
	enclave := []wire.Message{&wire.Failure{ID: &id, Code: "c"}, &wire.Log{ID: 1, Stream: "stdout", Data: []byte("x")},
		&wire.Accepted{}, &wire.Deployed{ID: "2222222222222222222222", Checksum: make([]byte, 32)}}
	check := func(m wire.Message, from, notFrom func([]byte) (wire.Message, error)) {
		record, err := wire.AppendMessage(nil, m)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := notFrom(record); !errors.Is(err, wire.ErrMalformed) {
			t.Errorf("%T from the other side: %v", m, err)
		}
		if got, err := from(record); err != nil || !cmp.Equal(got, m) {
			t.Errorf("%T: %v, %v", m, got, err)
		}
	}
	for _, m := range client {
		check(m, wire.ParseFromClient, wire.ParseFromEnclave)
	}
	for _, m := range enclave {
		check(m, wire.ParseFromEnclave, wire.ParseFromClient)
	}
	for _, record := range [][]byte{nil, {0}, {2, 1, 1}, {10, 0xa0}, {255}} {
		if _, err := wire.ParseFromClient(record); !errors.Is(err, wire.ErrMalformed) {
			t.Errorf("%x from a client: %v", record, err)
		}
		if _, err := wire.ParseFromEnclave(record); !errors.Is(err, wire.ErrMalformed) {
			t.Errorf("%x from an enclave: %v", record, err)
		}
	}
}

// What would be refused is not sent either.
func TestNothingMalformedIsSent(t *testing.T) {
	for _, m := range []wire.Message{&wire.Begin{}, &wire.End{}, &wire.Cancel{}, &wire.Window{ID: 1}, &wire.Result{ID: 1}, &wire.Failure{},
		&wire.Log{ID: 1}, &wire.Accepted{Fn: []byte{1}}, &wire.Deployed{}} {
		if _, err := wire.AppendMessage(nil, m); !errors.Is(err, wire.ErrMalformed) {
			t.Errorf("%T: %v", m, err)
		}
	}
	for name, encode := range map[string]func() ([]byte, error){
		"hello": (&wire.Hello{V: 2}).Encode, "attest": (&wire.Attest{}).Encode, "key attest": (&wire.KeyAttest{}).Encode, "receipt": (&wire.Receipt{}).Encode,
	} {
		if _, err := encode(); !errors.Is(err, wire.ErrMalformed) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestErrorTextsAreCut(t *testing.T) {
	long := strings.Repeat("ü", wire.MaxErrorText)
	f := wire.FailureOf(3, wire.CodeInternal, long)
	record, err := wire.AppendMessage(nil, f)
	if err != nil || *f.ID != 3 || len(record) > wire.MaxControl {
		t.Errorf("%d bytes: %v", len(f.Message), err)
	}
	if wire.FailureOf(0, "c", "\xff").ID != nil {
		t.Error("id 0 is not the session")
	}
	raw, err := wire.EncodeRefusal(wire.CodeInternal, long)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := wire.ParseAttest(raw); class(err) != "refused" {
		t.Error(err)
	}
}
