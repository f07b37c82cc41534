package boot_test

import (
	"testing"

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
