package session

import (
	"bytes"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"testing"
	"testing/iotest"
)

func TestBuffers(t *testing.T) {
	for _, max := range []int64{10, smallBuffer - 1, smallBuffer, smallBuffer + 1, budgetStep, 3 * budgetStep} {
		for _, size := range []int64{0, 1, max - 1, max, max + 1} {
			t.Run(fmt.Sprint(max, " ", size), func(t *testing.T) {
				m := newMemory(1 << 30)
				data := make([]byte, size)
				rand.Read(data)
				read, written := m.buffer(max), m.buffer(max)
				errRead := read.fill(bytes.NewReader(data), func() {})
				_, errWrite := io.Copy(written, iotest.OneByteReader(bytes.NewReader(data[:min(size, 100)])))
				if errWrite == nil && size > 100 {
					_, errWrite = written.Write(data[100:])
				}
				if size > max {
					if !errors.Is(errRead, errLimit) || !errors.Is(errWrite, errLimit) {
						t.Errorf("beyond: %v, %v", errRead, errWrite)
					}
				} else if errRead != nil || errWrite != nil || !bytes.Equal(read.bytes(), data) || !bytes.Equal(written.bytes(), data) {
					t.Errorf("%v, %v, %d and %d bytes", errRead, errWrite, len(read.bytes()), len(written.bytes()))
				}
				read.release()
				written.release()
				if n := m.held; n != 0 {
					t.Errorf("%d bytes are still taken", n)
				}
			})
		}
	}
}

func TestBuffersForgetWhatTheyHeld(t *testing.T) {
	m := newMemory(1 << 30)
	b := m.buffer(100)
	if _, err := b.Write([]byte("secret")); err != nil {
		t.Fatal(err)
	}
	held := b.heap
	if held == nil {
		t.Fatal("it is not on the heap")
	}
	b.release()
	if !bytes.Equal(held[:6], make([]byte, 6)) {
		t.Error("it went back with its content")
	}
}

func TestBufferErrorsAreTheReaders(t *testing.T) {
	m := newMemory(1 << 30)
	b := m.buffer(1 << 20)
	defer b.release()
	gone := errors.New("gone")
	if err := b.fill(io.MultiReader(bytes.NewReader(make([]byte, 100_000)), iotest.ErrReader(gone)), func() {}); !errors.Is(err, gone) {
		t.Errorf("got %v", err)
	}
}

// newMemory is that of the only tenant, who may have limit bytes.
func newMemory(limit int64) *memory { return &memory{budget: &budget{free: 2 * limit}} }
