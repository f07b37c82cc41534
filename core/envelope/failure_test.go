package envelope_test

import (
	"bytes"
	"errors"
	"io"
	"runtime"
	"testing"
	"testing/iotest"

	"github.com/cape-functions/cape/core/envelope"
)

// errLost is a source's own error. io.ErrUnexpectedEOF is what a connection
// that broke gives: it must not pass for an end.
var errLost = errors.New("connection lost")

func TestSourceErrors(t *testing.T) {
	data := seal(t, pattern(20*chunk), forFn, false)
	text := asText(data)
	for _, lost := range []error{errLost, io.ErrUnexpectedEOF} {
		for _, n := range []int{0, 3, 9, 200, 5 * chunk, len(data)} {
			for _, form := range [][]byte{data, text} {
				r := io.MultiReader(bytes.NewReader(form[:n]), iotest.ErrReader(lost))
				if _, _, err := open(t, r); !errors.Is(err, lost) {
					t.Errorf("%v after %d bytes: %v", lost, n, err)
				}
				r = io.MultiReader(bytes.NewReader(form[:n]), iotest.ErrReader(lost))
				plain, _, err := envelope.NewReader(r, find(t), allowAll)
				if err == nil {
					_, err = io.Copy(io.Discard, plain)
				}
				if !errors.Is(err, lost) {
					t.Errorf("copy, %v after %d bytes: %v", lost, n, err)
				}
			}
		}
		var out bytes.Buffer
		w, err := envelope.NewWriter(&out, &key(t, 0).PublicKey, forFn, false)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := io.Copy(w, io.MultiReader(bytes.NewReader(pattern(100)), iotest.ErrReader(lost))); !errors.Is(err, lost) {
			t.Errorf("sealing a source that fails: %v", err)
		}
		if err := w.Close(); !errors.Is(err, lost) {
			t.Errorf("Close after the source failed: %v", err)
		}
		if _, _, err := open(t, &out); !errors.Is(err, envelope.ErrTruncated) {
			t.Errorf("a part passes for the whole: %v", err)
		}
	}
}

type failing struct{ left int }

func (f *failing) Write(p []byte) (int, error) {
	if f.left -= len(p); f.left < 0 {
		return 0, errLost
	}
	return len(p), nil
}

func TestSinkErrors(t *testing.T) {
	for _, text := range []bool{false, true} {
		for _, left := range []int{0, 8, 2000, 3 << 20} {
			w, err := envelope.NewWriter(&failing{left}, &key(t, 0).PublicKey, forFn, text)
			if err == nil {
				_, err = w.Write(pattern(4 << 20))
			}
			if err == nil {
				err = w.Close()
			}
			if !errors.Is(err, errLost) {
				t.Errorf("text %v, %d bytes: %v", text, left, err)
			}
		}
	}
	w, err := envelope.NewWriter(io.Discard, &key(t, 0).PublicKey, forFn, false)
	if err != nil {
		t.Fatal(err)
	}
	for range 2 {
		if err := w.Close(); err != nil {
			t.Errorf("Close, which may be called twice: %v", err)
		}
	}
	if _, err := w.Write([]byte("late")); err == nil {
		t.Error("Write after Close")
	}
}

// failOnce is a sink that loses one write and takes the others.
type failOnce struct{ in int }

func (f *failOnce) Write(p []byte) (int, error) {
	if f.in--; f.in == 0 {
		return 0, errLost
	}
	return len(p), nil
}

// An envelope with a hole must not be taken for a whole one.
func TestLostWriteIsReported(t *testing.T) {
	for in := 1; in <= 6; in++ {
		w, err := envelope.NewWriter(&failOnce{in}, &key(t, 0).PublicKey, forFn, false)
		if err == nil {
			_, err = w.Write(pattern(3*16*chunk + 1)) // prefix, header, three batches, the end
			err = errors.Join(err, w.Close())
		}
		if !errors.Is(err, errLost) {
			t.Errorf("write %d was lost: %v", in, err)
		}
	}
}

type idle struct{}

func (idle) Read([]byte) (int, error) { return 0, nil }

func TestIdleSource(t *testing.T) {
	if _, _, err := open(t, idle{}); !errors.Is(err, io.ErrNoProgress) {
		t.Errorf("opening: %v", err)
	}
	w, err := envelope.NewWriter(io.Discard, &key(t, 0).PublicKey, forFn, false)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := io.Copy(w, idle{}); !errors.Is(err, io.ErrNoProgress) {
		t.Errorf("sealing: %v", err)
	}
	if err := w.Close(); !errors.Is(err, io.ErrNoProgress) {
		t.Errorf("Close: %v", err)
	}
}

func TestConstantMemory(t *testing.T) {
	const size = 256 << 20
	for _, text := range []bool{false, true} {
		var before, after runtime.MemStats
		runtime.ReadMemStats(&before)
		pr, pw := io.Pipe()
		go func() {
			w, err := envelope.NewWriter(pw, &key(t, 0).PublicKey, forFn, text)
			if err == nil {
				_, err = io.Copy(w, &zeros{size})
			}
			if err == nil {
				err = w.Close()
			}
			pw.CloseWithError(err)
		}()
		plain, _, err := envelope.NewReader(pr, find(t), allowAll)
		if err != nil {
			t.Fatal(err)
		}
		if n, err := io.Copy(io.Discard, plain); err != nil || n != size {
			t.Fatal(n, err)
		}
		runtime.ReadMemStats(&after)
		if got := after.TotalAlloc - before.TotalAlloc; got > 32<<20 {
			t.Errorf("text %v: %d MiB allocated for %d", text, got>>20, size>>20)
		}
	}
}
