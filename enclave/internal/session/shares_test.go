package session

import (
	"context"
	"errors"
	"io"
	"net"
	"testing"
	"time"

	"github.com/cape-functions/cape/core/wire"
	"github.com/cape-functions/cape/enclave/internal/handler"
	"github.com/cape-functions/cape/enclave/internal/vault"
)

func who(b byte) vault.Holder { return vault.Account([32]byte{b}) }

// TestSeatsAreLeftForOthers: one alone gets half, the next half of the rest, and so on until there are none.
func TestSeatsAreLeftForOthers(t *testing.T) {
	const all = 64
	s := &seats{budget: &budget{free: 1 << 20}, free: all, tenants: map[vault.Holder]*tenant{}}
	var taken []*tenant
	for b, left := byte(1), all; left > 0; b++ {
		n := 0
		for ; ; n++ {
			one, f := s.take(who(b))
			if f != nil {
				if s.free > 0 && (f.code != wire.CodeQuota || !f.fatal) {
					t.Errorf("tenant %d is refused with %s", b, f.code)
				}
				break
			}
			taken = append(taken, one)
		}
		if n != (left+1)/2 {
			t.Fatalf("tenant %d got %d of %d", b, n, left)
		}
		left -= n
	}
	if _, f := s.take(who(200)); f == nil || f.code != wire.CodeUnavailable {
		t.Errorf("one too many: %v", f)
	}
	for _, one := range taken {
		s.give(one)
	}
	if s.free != all || len(s.tenants) != 0 {
		t.Errorf("%d places are free, %d tenants known", s.free, len(s.tenants))
	}
}

// TestMemoryIsLeftForOthers is the same for the memory of messages.
func TestMemoryIsLeftForOthers(t *testing.T) {
	all := &budget{free: 64 * budgetStep}
	greedy, other := &memory{budget: all}, &memory{budget: all}
	for greedy.take(budgetStep) == nil {
	}
	if greedy.held != 32*budgetStep {
		t.Errorf("one alone holds %d steps", greedy.held/budgetStep)
	}
	b := other.buffer(10 * budgetStep)
	if _, err := b.Write(make([]byte, 10*budgetStep)); err != nil {
		t.Errorf("another: %v", err)
	}
	b.release()
	greedy.give(greedy.held)
	if all.free != 64*budgetStep || other.held != 0 {
		t.Errorf("%d free, %d held", all.free, other.held)
	}
}

// TestLargestMessagesFit: where nobody else needs any, one input and one result of the largest size have room.
func TestLargestMessagesFit(t *testing.T) {
	m := &memory{budget: &budget{free: AllMessages}}
	const in = wire.MaxInput + wire.SealOverhead + 1
	grow := func(all int64) {
		t.Helper()
		for held := int64(0); held < all; held += budgetStep {
			if err := m.take(min(budgetStep, all-held)); err != nil {
				t.Fatalf("after %d bytes: %v", held, err)
			}
		}
	}
	grow(in)
	if err := m.take(in); err != nil {
		t.Fatalf("while it is opened: %v", err)
	}
	m.give(in)
	grow(wire.MaxOutput + 1)
}

// TestSmallMessagesCount: many small ones are as large as few large ones.
func TestSmallMessagesCount(t *testing.T) {
	m := newMemory(smallBuffer)
	first, second := m.buffer(10), m.buffer(10)
	defer first.release()
	defer second.release()
	if _, err := first.Write([]byte("x")); err != nil {
		t.Fatal(err)
	}
	if _, err := second.Write([]byte("x")); !errors.Is(err, errMemory) {
		t.Errorf("the second: %v", err)
	}
}

func TestLobby(t *testing.T) {
	inner, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	l := &lobby{patience: time.Hour}
	d := &doorman{inner, l, 1}
	defer d.Close()
	accepted := make(chan *guest, 8)
	go func() {
		for {
			c, err := d.Accept()
			if err != nil {
				return
			}
			g, _ := c.(*guest)
			accepted <- g
		}
	}()
	dial := func() net.Conn {
		c, err := net.Dial("tcp", inner.Addr().String())
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { c.Close() })
		return c
	}
	guests := func() int {
		l.mu.Lock()
		defer l.mu.Unlock()
		return l.guests.Len()
	}
	ended := func(c net.Conn) bool {
		if err := c.SetReadDeadline(time.Now().Add(5 * time.Second)); err != nil {
			t.Fatal(err)
		}
		_, err := c.Read(make([]byte, 1))
		return errors.Is(err, io.EOF)
	}
	dial()
	first := <-accepted
	if !ended(dial()) {
		t.Error("one too many, while the first has just come")
	}
	first.Close()
	first.Close() // twice counts once
	if n := guests(); n != 0 {
		t.Fatalf("%d guests", n)
	}
	waits := dial()
	old := <-accepted
	l.mu.Lock()
	old.came = old.came.Add(-2 * time.Hour)
	l.mu.Unlock()
	dial()
	admitted := <-accepted // at the expense of who waited long
	if !ended(waits) {
		t.Error("who waits too long keeps others out")
	}
	admitted.leave()
	l.mu.Lock()
	admitted.came = old.came
	l.mu.Unlock()
	dial()
	<-accepted // nobody need go
	if guests() != 1 || admitted.SetDeadline(time.Now()) != nil {
		t.Error("who was admitted was ended")
	}
}

// TestRequestsOfFunctionsTakeTurns: those of one tenant do not keep all processors busy.
func TestRequestsOfFunctionsTakeTurns(t *testing.T) {
	o := opener{tenant: &tenant{requests: make(vault.Turn, 1)}}
	if _, err := o.rpc(t.Context(), handler.MethodDecrypt, []byte("plain")); !errors.Is(err, errNotSealed) {
		t.Fatal(err)
	}
	o.tenant.requests <- struct{}{}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := o.rpc(ctx, handler.MethodDecrypt, []byte("plain")); !errors.Is(err, context.Canceled) {
		t.Errorf("out of turn: %v", err)
	}
}

// TestChecksTakeTurns: neither do functions that are judged.
func TestChecksTakeTurns(t *testing.T) {
	one := &tenant{checks: make(vault.Turn, 1)}
	one.checks <- struct{}{}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := new(Server).check(ctx, one, nil, 0); !errors.Is(err, context.Canceled) {
		t.Errorf("out of turn: %v", err)
	}
}
