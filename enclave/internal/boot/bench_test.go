package boot_test

import (
	"testing"

	"github.com/cape-functions/cape/core/flow"
	"github.com/cape-functions/cape/core/wire"
)

// BenchmarkWarmInvoke is one 1 KiB echo on an open connection, real Python and the RSA
// signature of v1 included.
func BenchmarkWarmInvoke(b *testing.B) {
	w := newWorld(b)
	w.born()
	w.message(wire.ModeServe)
	w.start()
	id, err := w.deploy(b, "echo", zipOf(b, map[string]string{"echo/app.py": "def cape_handler(x): return x\n"}))
	if err != nil {
		b.Fatal(err)
	}
	s := w.session(b, "/v1/run/"+id, w.token(nil))
	in := make([]byte, 1024)
	s.invoke(in)
	for b.Loop() {
		if _, remote := s.invoke(in); remote != nil {
			b.Fatal(remote)
		}
	}
}

// BenchmarkWarmInvokeV2 is the same with sealed records and a signed receipt.
func BenchmarkWarmInvokeV2(b *testing.B) {
	w := newWorld(b)
	w.born()
	w.message(wire.ModeServe)
	w.start()
	key := newAccount(b)
	id := w.deployV2(b, key, "echo", zipOf(b, map[string]string{"echo/app.py": "def cape_handler(x): return x\n"}))
	s := w.sealed(b, "/v1/run/"+id, w.token(nil), nil)
	in := make([]byte, 1024)
	s.invoke(in)
	for b.Loop() {
		s.invoke(in)
	}
}

// BenchmarkLargeInvokeV2 is an echo of 64 MiB, streamed within the credit of both sides.
func BenchmarkLargeInvokeV2(b *testing.B) {
	const size = 64 << 20
	w := newWorld(b)
	w.cfg.Limits.CallMS = 60_000
	w.born()
	w.message(wire.ModeServe)
	w.start()
	key := newAccount(b)
	id := w.deployV2(b, key, "echo", zipOf(b, map[string]string{"echo/app.py": "def cape_handler(x): return x\n"}))
	s := w.sealed(b, "/v1/run/"+id, w.token(nil), nil)
	b.SetBytes(2 * size)
	for b.Loop() {
		s.large(size)
	}
}

// large sends size bytes and reads as many back.
func (s *sealed) large(size int) {
	s.id++
	s.send(&wire.Begin{ID: s.id, Kind: wire.KindInput})
	in, out := flow.NewSendCredit(), flow.NewReceiveCredit()
	record := make([]byte, 0, wire.MaxFrame)
	for left := size; left > 0; {
		n := in.Take(min(left, wire.DataPayload))
		if n == 0 {
			if err := in.Grant(s.next().(*wire.Window).Bytes); err != nil {
				s.t.Fatal(err)
			}
			continue
		}
		head := wire.AppendDataHead(record[:0], s.id)
		s.record(head[:len(head)+n])
		left -= n
	}
	s.send(&wire.End{ID: s.id})
	for got := 0; ; {
		switch m := s.next().(type) {
		case []byte:
			got += len(m)
			if grant := out.Use(len(m)); grant > 0 {
				s.send(&wire.Window{ID: s.id, Bytes: grant})
			}
		case *wire.Window: // the last of the input's
		case *wire.Result:
			if got != size {
				s.t.Fatalf("%d bytes came back", got)
			}
			return
		default:
			s.t.Fatalf("got %T %+v", m, m)
		}
	}
}
