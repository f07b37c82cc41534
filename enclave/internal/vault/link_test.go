package vault

import (
	"bytes"
	"errors"
	"io"
	"runtime"
	"testing"
	"time"

	"github.com/cape-functions/cape/core/wire"
)

func TestGuardedBodyIsNotReadOnceClosed(t *testing.T) {
	src := bytes.NewReader(make([]byte, 10))
	g := &guarded{r: src, stalled: time.NewTimer(time.Hour)}
	if _, err := g.Read(make([]byte, 4)); err != nil {
		t.Fatal(err)
	}
	if err := g.Close(); err != nil {
		t.Fatal(err)
	}
	if n, err := g.Read(make([]byte, 4)); n != 0 || !errors.Is(err, io.ErrClosedPipe) || src.Len() != 6 {
		t.Errorf("read %d, %v, %d left", n, err, src.Len())
	}
}

// TestLengthsCostNoMemory: four bytes of the host's do not make the enclave set memory aside.
func TestLengthsCostNoMemory(t *testing.T) {
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	var f wire.StoredFunction
	if err := readHead(bytes.NewReader([]byte{0x7f, 0, 0, 0, 1}), &f); !errors.Is(err, ErrHead) {
		t.Errorf("got %v", err)
	}
	runtime.ReadMemStats(&after)
	if n := after.TotalAlloc - before.TotalAlloc; n > 1<<20 {
		t.Errorf("%d bytes", n)
	}
}
