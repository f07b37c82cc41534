package session

import (
	"crypto/rand"
	"encoding/binary"
	"errors"
	"io"
	"testing"
	"time"

	"github.com/cape-functions/cape/core/wire"
)

// records splits fuzzed bytes into records, each behind its length.
func records(data []byte, yield func([]byte) bool) {
	for len(data) >= 2 {
		n := min(int(binary.BigEndian.Uint16(data)), len(data)-2)
		if !yield(data[2 : 2+n]) {
			return
		}
		data = data[2+n:]
	}
}

func fuzzed(t testing.TB, messages ...any) []byte {
	var out []byte
	for _, m := range messages {
		var r []byte
		switch m := m.(type) {
		case wire.Message:
			var err error
			if r, err = wire.AppendMessage(nil, m); err != nil {
				t.Fatal(err)
			}
		case string:
			r = append(wire.AppendDataHead(nil, 1), m...)
		}
		out = append(binary.BigEndian.AppendUint16(out, uint16(len(r))), r...)
	}
	return out
}

// FuzzV2Records: whatever an authenticated client sends, in any order, nothing panics or hangs,
// what is held stays within the credit, and everything is given back.
func FuzzV2Records(f *testing.F) {
	begin, end := &wire.Begin{ID: 1, Kind: wire.KindInput}, &wire.End{ID: 1}
	f.Add(byte(0), fuzzed(f, begin, "hello", end, &wire.Begin{ID: 2, Kind: wire.KindInput}, &wire.End{ID: 2}))
	f.Add(byte(1), fuzzed(f, &wire.Begin{ID: 1, Kind: wire.KindFunction, Manifest: []byte("m"), Sig: make([]byte, 64)}, "zip", end))
	f.Add(byte(2), fuzzed(f, &wire.Begin{ID: 1, Kind: wire.KindFunction}, end, &wire.Begin{ID: 2, Kind: wire.KindInput}, &wire.Cancel{ID: 2}))
	f.Add(byte(0), fuzzed(f, begin, &wire.Window{ID: 1, Bytes: 1 << 20}, "x", "y", begin))
	f.Fuzz(func(t *testing.T, route byte, data []byte) {
		kinds := [][2]string{{wire.KindInput, wire.KindInput}, {wire.KindFunction, ""}, {wire.KindFunction, wire.KindInput}}[route%3]
		mem := newMemory(wire.MaxStreams * 2 * wire.InitialCredit)
		b := newInbox(newWatch(time.Hour), func() {}, kinds[0], kinds[1])
		b.mem = mem
		b.grant = func(_, n uint64) error {
			if n == 0 || n > wire.InitialCredit {
				t.Errorf("granted %d bytes", n)
			}
			return nil
		}
		done := make(chan struct{})
		go func() {
			defer close(done)
			answerAll(b)
		}()
		for r := range func(yield func([]byte) bool) { records(data, yield) } {
			if err := b.record(r); err != nil {
				b.fail(err)
				break
			}
			if held := mem.held; held > wire.MaxStreams*(wire.InitialCredit+smallBuffer) {
				t.Fatalf("%d bytes are held", held)
			}
		}
		b.fail(errGone)
		<-done
		b.clear()
		if n := mem.held; n != 0 {
			t.Errorf("%d bytes are still taken", n)
		}
	})
}

// answerAll is the other goroutine: it reads each stream and takes it out.
func answerAll(b *inbox) {
	b.watch.begin()
	defer b.watch.end()
	for {
		s, err := b.oldest()
		if err != nil {
			return
		}
		if _, err := io.Copy(io.Discard, s); err != nil {
			return
		}
		if _, err := s.allowance(1000); err != nil || b.answered(s) != nil {
			return
		}
	}
}

func TestPiecesComeOutAsTheyWentIn(t *testing.T) {
	mem := newMemory(10 * smallBuffer)
	p := pieces{mem: mem}
	in := make([]byte, 5*smallBuffer+3)
	rand.Read(in)
	var out []byte
	for at, n := 0, 1; at < len(in); at, n = at+n, n*3 {
		n = min(n, len(in)-at)
		if err := p.write(in[at : at+n]); err != nil {
			t.Fatal(err)
		}
		buf := make([]byte, n/2+1)
		out = append(out, buf[:p.read(buf)]...)
	}
	rest := make([]byte, len(in))
	out = append(out, rest[:p.read(rest)]...)
	if string(out) != string(in) || mem.held != 0 || p.held != 0 {
		t.Errorf("%d bytes came out, %d are taken", len(out), mem.held)
	}
	if err := p.write(make([]byte, 11*smallBuffer)); !errors.Is(err, errMemory) {
		t.Errorf("beyond the budget: %v", err)
	}
	p.drop(len(p.list))
	if n := mem.held; n != 0 {
		t.Errorf("%d bytes are still taken", n)
	}
}
