package link

import (
	"io"
	"net"
	"sync/atomic"
	"testing"
	"time"
)

// countingConn counts writes.
type countingConn struct {
	net.Conn
	writes atomic.Int32
}

func (c *countingConn) Write(p []byte) (int, error) {
	c.writes.Add(1)
	return c.Conn.Write(p)
}

func TestCork(t *testing.T) {
	near, far := net.Pipe()
	defer near.Close()
	var got []byte
	done := make(chan struct{})
	go func() {
		defer close(done)
		got, _ = io.ReadAll(far) // it ends when near is closed
	}()
	inner := &countingConn{Conn: near}
	c := &corkable{Conn: inner}
	write := func(n int, b byte) {
		t.Helper()
		p := make([]byte, n)
		for i := range p {
			p[i] = b
		}
		if k, err := c.Write(p); err != nil || k != n {
			t.Fatal(k, err)
		}
	}
	expect := func(writes int32) {
		t.Helper()
		if n := inner.writes.Load(); n != writes {
			t.Errorf("%d writes, want %d", n, writes)
		}
	}
	write(3, 'a')
	expect(1)
	c.Cork()
	write(3, 'b')
	write(3, 'c')
	expect(1)
	if err := c.Uncork(); err != nil {
		t.Fatal(err)
	}
	expect(2)
	c.Cork()
	write(maxCorked, 'd')
	expect(2)
	write(1, 'e') // over what is held back: both go
	expect(4)
	if err := c.Uncork(); err != nil {
		t.Fatal(err)
	}
	expect(4)
	near.Close()
	select {
	case <-done:
	case <-time.After(10 * time.Second):
		t.Fatal("the other end never finished")
	}
	if want := 9 + maxCorked + 1; len(got) != want || string(got[:9]) != "aaabbbccc" || got[want-1] != 'e' {
		t.Errorf("%d bytes came, of %d", len(got), want)
	}
	var none *corkable
	none.Cork()
	if err := none.Uncork(); err != nil {
		t.Error(err)
	}
	c.Cork()
	write(1, 'f')
	if err := c.Uncork(); err == nil {
		t.Error("what was held back is lost without an error")
	}
}
