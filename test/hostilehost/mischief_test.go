package hostilehost

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/cape-functions/cape/client"
)

// mischief is what a host does to the frame it has in hand; held are frames
// that it kept back of this direction.
type mischief struct {
	name string
	do   func(r *rand.Rand, frame []byte, earlier [][]byte) [][]byte
}

var mischiefs = []mischief{
	{"flips a bit", func(r *rand.Rand, frame []byte, _ [][]byte) [][]byte {
		frame = bytes.Clone(frame)
		frame[r.IntN(len(frame))] ^= 1 << r.IntN(8)
		return [][]byte{frame}
	}},
	{"drops a frame", func(*rand.Rand, []byte, [][]byte) [][]byte { return nil }},
	{"repeats a frame", func(_ *rand.Rand, frame []byte, _ [][]byte) [][]byte { return [][]byte{frame, frame} }},
	{"replays an earlier frame in its place", func(r *rand.Rand, frame []byte, earlier [][]byte) [][]byte {
		if len(earlier) == 0 {
			return [][]byte{frame[:len(frame)/2]}
		}
		return [][]byte{earlier[r.IntN(len(earlier))]}
	}},
	{"cuts a frame", func(r *rand.Rand, frame []byte, _ [][]byte) [][]byte { return [][]byte{frame[:r.IntN(len(frame))]} }},
	{"lengthens a frame", func(_ *rand.Rand, frame []byte, _ [][]byte) [][]byte {
		return [][]byte{append(bytes.Clone(frame), 0)}
	}},
	{"parts a frame", func(r *rand.Rand, frame []byte, _ [][]byte) [][]byte {
		at := 1 + r.IntN(len(frame)-1)
		return [][]byte{frame[:at], frame[at:]}
	}},
	{"invents a frame before it", func(r *rand.Rand, frame []byte, _ [][]byte) [][]byte {
		invented := make([]byte, 32)
		for i := range invented {
			invented[i] = byte(r.Uint32())
		}
		return [][]byte{invented, frame}
	}},
}

// once does one mischief to the nth frame of a direction.
func once(r *rand.Rand, m mischief, direction string, at int) func(string, int, []byte) [][]byte {
	var mu sync.Mutex
	var earlier [][]byte
	return func(d string, n int, frame []byte) [][]byte {
		mu.Lock()
		defer mu.Unlock()
		if d != direction {
			return [][]byte{frame}
		}
		if n == at {
			return m.do(r, frame, earlier)
		}
		earlier = append(earlier, bytes.Clone(frame))
		return [][]byte{frame}
	}
}

// swapped delivers frame at after the one that follows it.
func swapped(direction string, at int) func(string, int, []byte) [][]byte {
	var mu sync.Mutex
	var held []byte
	return func(d string, n int, frame []byte) [][]byte {
		mu.Lock()
		defer mu.Unlock()
		switch {
		case d == direction && n == at:
			held = bytes.Clone(frame)
			return nil
		case d == direction && n == at+1:
			return [][]byte{frame, held}
		}
		return [][]byte{frame}
	}
}

// honest runs a function with the real client.
func (o *operator) honest(p person, url, id string, input []byte) ([]byte, error) {
	ctx, cancel := context.WithTimeout(o.t.Context(), time.Minute)
	defer cancel()
	result, err := o.sdk(p, url).Run(ctx, client.Function{Name: id}, input)
	if err != nil {
		return nil, err
	}
	return result.Output, nil
}

// TestMischief drives the real runtime, and the real client, through a network that does one thing
// wrong: the caller gets an error or the right answer, soon, and the enclave
// goes on to serve others.
func TestMischief(t *testing.T) {
	o := newOperator(t)
	alice := o.person("alice")
	id := o.deploy(alice, "echo", echo, nil)
	input := []byte(strings.Repeat("input ", 100_000)) // three data records each way
	r := rand.New(rand.NewPCG(2026, 4))
	for i := range 60 {
		m, direction, at := mischiefs[r.IntN(len(mischiefs))], []string{up, down}[r.IntN(2)], r.IntN(6)
		what := fmt.Sprintf("%d: a host that %s, %s, frame %d", i, m.name, direction, at)
		wire := newRelay(t, o.p.URL)
		if wire.frame = once(r, m, direction, at); r.IntN(8) == 0 {
			what = fmt.Sprintf("%d: a host that swaps frames %s from %d", i, direction, at)
			wire.frame = swapped(direction, at)
		}
		// Where nothing comes any more, nothing can be told from a slow network: a caller gives
		// up when it has waited long enough, and the enclave after its idle time.
		silent := strings.Contains(what, "drops") || strings.Contains(what, "swaps")
		wrong, err := within(t, what, silent, func() ([]byte, error) {
			if i%2 == 1 {
				return o.honest(alice, wire.URL, id, input)
			}
			c, err := connect(t, wire.URL, "/v1/run/"+id, o.believed, opening(alice.token, alice.key))
			if err != nil {
				return nil, err
			}
			defer c.ws.CloseNow()
			out, _, err := c.invoke(input)
			return out, err
		})
		if err == nil && !bytes.Equal(wrong, input) {
			t.Fatalf("%s: %d bytes were taken for the answer", what, len(wrong))
		}
		wire.CloseClientConnections()
	}
	c, err := connect(t, o.p.URL, "/v1/run/"+id, o.believed, opening(alice.token, alice.key))
	if err != nil {
		t.Fatal(err)
	}
	if out, _, err := c.invoke(input); err != nil || !bytes.Equal(out, input) {
		t.Errorf("an honest run afterwards: %v", err)
	}
}

var errSilent = errors.New("nothing came")

// within fails the test when a call does not return, unless silence is to be expected.
func within(t *testing.T, what string, silent bool, call func() ([]byte, error)) ([]byte, error) {
	t.Helper()
	type answer struct {
		out []byte
		err error
	}
	done := make(chan answer, 1)
	go func() {
		out, err := call()
		done <- answer{out, err}
	}()
	limit := time.Minute
	if silent {
		limit = 5 * time.Second
	}
	select {
	case a := <-done:
		return a.out, a.err
	case <-time.After(limit):
		if !silent {
			t.Fatalf("%s: neither an answer nor an error", what)
		}
		return nil, errSilent
	}
}
