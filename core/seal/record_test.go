package seal_test

import (
	"bytes"
	"crypto/sha256"
	"errors"
	"testing"

	"github.com/cape-functions/cape/core/seal"
	"github.com/cape-functions/cape/core/wire"
)

// ends are both sides' records of one session.
func ends(t testing.TB) (caller, enclave *seal.Channel) {
	t.Helper()
	transcript, secret := sha256.Sum256([]byte("transcript")), bytes.Repeat([]byte{7}, 32)
	caller, err := seal.ChannelWith(transcript, secret, true)
	if err != nil {
		t.Fatal(err)
	}
	if enclave, err = seal.ChannelWith(transcript, secret, false); err != nil {
		t.Fatal(err)
	}
	return caller, enclave
}

func TestRecordsInPlace(t *testing.T) {
	caller, enclave := ends(t)
	for _, size := range []int{1, 100, wire.MaxFrame - seal.RecordOverhead} {
		buf := make([]byte, size, size+seal.RecordOverhead)
		frame, err := caller.Out.Seal(buf)
		if err != nil || &frame[0] != &buf[0] || len(frame) != size+seal.RecordOverhead {
			t.Errorf("%d bytes: not in place, %v", size, err)
		}
		got, err := enclave.In.Open(frame)
		if err != nil || &got[0] != &buf[0] || !bytes.Equal(got, make([]byte, size)) {
			t.Errorf("%d bytes: not in place, %v", size, err)
		}
	}
}

func TestRecordsDoNotAllocate(t *testing.T) {
	caller, enclave := ends(t)
	buf := make([]byte, wire.MaxFrame)
	n := testing.AllocsPerRun(100, func() {
		frame, err := caller.Out.Seal(append(wire.AppendDataHead(buf[:0], 1), 1, 2, 3))
		if err != nil {
			t.Fatal(err)
		}
		record, err := enclave.In.Open(frame)
		if err != nil {
			t.Fatal(err)
		}
		if _, _, err := wire.ParseData(record); err != nil {
			t.Fatal(err)
		}
	})
	if n != 0 {
		t.Errorf("%v allocations for a record", n)
	}
}

func TestBrokenDirectionStaysBroken(t *testing.T) {
	caller, enclave := ends(t)
	first, err := caller.Out.Seal([]byte{1, 2, 3})
	if err != nil {
		t.Fatal(err)
	}
	changed := bytes.Clone(first)
	changed[0] ^= 1
	if _, err := enclave.In.Open(changed); !errors.Is(err, seal.ErrRecord) {
		t.Errorf("changed: %v", err)
	}
	if _, err := enclave.In.Open(first); !errors.Is(err, seal.ErrRecord) {
		t.Errorf("the sound record afterwards: %v", err)
	}
}

func TestDirectionsAreExhausted(t *testing.T) {
	caller, enclave := ends(t)
	caller.Exhaust(10)
	enclave.Exhaust(10)
	frame, err := caller.Out.Seal(make([]byte, 10))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := caller.Out.Seal([]byte{1}); !errors.Is(err, seal.ErrExhausted) {
		t.Errorf("the sender's 11th byte: %v", err)
	}
	if _, err := enclave.In.Open(frame); err != nil {
		t.Fatal(err)
	}
	caller.Exhaust(10)
	if frame, err = caller.Out.Seal([]byte{1}); err != nil {
		t.Fatal(err)
	}
	if _, err := enclave.In.Open(frame); !errors.Is(err, seal.ErrExhausted) {
		t.Errorf("the receiver's 11th byte: %v", err)
	}
	fresh, _ := ends(t)
	if _, err := fresh.Out.Seal(nil); !errors.Is(err, seal.ErrEmpty) {
		t.Errorf("a record of nothing: %v", err)
	}
}

func BenchmarkRecord(b *testing.B) {
	caller, enclave := ends(b)
	caller.Exhaust(1 << 62)
	enclave.Exhaust(1 << 62)
	buf := make([]byte, wire.MaxFrame-seal.RecordOverhead, wire.MaxFrame)
	b.SetBytes(int64(len(buf)))
	b.ReportAllocs()
	for b.Loop() {
		frame, err := caller.Out.Seal(buf)
		if err != nil {
			b.Fatal(err)
		}
		if _, err := enclave.In.Open(frame); err != nil {
			b.Fatal(err)
		}
	}
}

func FuzzRecord(f *testing.F) {
	for _, record := range [][]byte{{1}, {2, 1, 1}, bytes.Repeat([]byte{3}, 100)} {
		caller, _ := ends(f)
		frame, err := caller.Out.Seal(record)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(frame)
	}
	f.Add([]byte{})
	f.Fuzz(func(t *testing.T, frame []byte) {
		caller, enclave := ends(t)
		sent := bytes.Clone(frame)
		record, err := enclave.In.Open(frame)
		if err != nil {
			return
		}
		if again, err := caller.Out.Seal(record); err != nil || !bytes.Equal(again, sent) {
			t.Errorf("%x came back as %x, %v", sent, again, err)
		}
	})
}
