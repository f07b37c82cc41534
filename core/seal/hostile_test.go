package seal_test

import (
	"bytes"
	"errors"
	"fmt"
	"math/rand/v2"
	"testing"

	"github.com/cape-functions/cape/core/attest"
	"github.com/cape-functions/cape/core/seal"
	"github.com/cape-functions/cape/core/seal/testkit"
	"github.com/cape-functions/cape/core/secret"
	"github.com/cape-functions/cape/core/wire"
)

// mischief is one thing that a host may do with frames in flight. It returns
// what is delivered in their place.
type mischief struct {
	name string
	do   func(r *rand.Rand, frames [][]byte) [][]byte
}

func copied(frames [][]byte) [][]byte {
	out := make([][]byte, len(frames))
	for i, f := range frames {
		out[i] = bytes.Clone(f)
	}
	return out
}

// mischiefs each change a sequence of two frames or more, whatever they draw.
var mischiefs = []mischief{
	{"flips a bit", func(r *rand.Rand, frames [][]byte) [][]byte {
		f := frames[r.IntN(len(frames))]
		f[r.IntN(len(f))] ^= 1 << r.IntN(8)
		return frames
	}},
	{"repeats a frame", func(r *rand.Rand, frames [][]byte) [][]byte {
		i := r.IntN(len(frames))
		return append(append(copied(frames[:i+1]), bytes.Clone(frames[i])), frames[i+1:]...)
	}},
	{"drops a frame that is not the last", func(r *rand.Rand, frames [][]byte) [][]byte {
		i := r.IntN(len(frames) - 1)
		return append(copied(frames[:i]), frames[i+1:]...)
	}},
	{"swaps two frames", func(r *rand.Rand, frames [][]byte) [][]byte {
		i := r.IntN(len(frames) - 1)
		frames[i], frames[i+1] = frames[i+1], frames[i]
		return frames
	}},
	{"cuts a frame", func(r *rand.Rand, frames [][]byte) [][]byte {
		i := r.IntN(len(frames))
		frames[i] = frames[i][:r.IntN(len(frames[i]))]
		return frames
	}},
	{"lengthens a frame", func(r *rand.Rand, frames [][]byte) [][]byte {
		i := r.IntN(len(frames))
		frames[i] = append(frames[i], byte(r.Uint32()))
		return frames
	}},
	{"joins two frames", func(r *rand.Rand, frames [][]byte) [][]byte {
		i := r.IntN(len(frames) - 1)
		frames[i] = append(frames[i], frames[i+1]...)
		return append(copied(frames[:i+1]), frames[i+2:]...)
	}},
	{"parts a frame", func(r *rand.Rand, frames [][]byte) [][]byte {
		i := r.IntN(len(frames))
		at := 1 + r.IntN(len(frames[i])-1)
		return append(append(copied(frames[:i]), bytes.Clone(frames[i][:at]), bytes.Clone(frames[i][at:])), frames[i+1:]...)
	}},
	{"invents a frame", func(r *rand.Rand, frames [][]byte) [][]byte {
		invented := make([]byte, 17+r.IntN(64))
		for i := range invented {
			invented[i] = byte(r.Uint32())
		}
		i := r.IntN(len(frames) + 1)
		return append(append(copied(frames[:i]), invented), frames[i:]...)
	}},
}

// What a receiver takes is always a prefix of what was sent, and whatever the host did to
// the frames, it takes nothing from there on.
func TestHostileRecords(t *testing.T) {
	for seed := range uint64(2000) {
		r := rand.New(rand.NewPCG(seed, 2))
		caller, enclave := ends(t)
		out, in := caller.Out, enclave.In
		if seed%2 == 1 {
			out, in = enclave.Out, caller.In
		}
		var records, frames [][]byte
		for range 2 + r.IntN(8) {
			record := make([]byte, 1+r.IntN(300))
			for i := range record {
				record[i] = byte(r.Uint32())
			}
			frame, err := out.Seal(bytes.Clone(record))
			if err != nil {
				t.Fatal(err)
			}
			records, frames = append(records, record), append(frames, frame)
		}
		m := mischiefs[r.IntN(len(mischiefs))]
		given := m.do(r, copied(frames))
		sound := 0
		for sound < len(given) && sound < len(frames) && bytes.Equal(given[sound], frames[sound]) {
			sound++
		}
		what := fmt.Sprintf("seed %d: a host that %s", seed, m.name)
		for i, frame := range given {
			record, err := in.Open(frame)
			switch {
			case i < sound && (err != nil || !bytes.Equal(record, records[i])):
				t.Fatalf("%s: record %d, which came as it was sent: %v", what, i, err)
			case i >= sound && err == nil:
				t.Fatalf("%s: record %d was taken", what, i)
			case i >= sound && !errors.Is(err, seal.ErrRecord) && !errors.Is(err, seal.ErrEmpty):
				t.Fatalf("%s: record %d: %v", what, i, err)
			}
		}
	}
}

// handshake passes each message of a handshake through the host, and returns the channel
// of each end that has one.
func handshake(e *testkit.Enclave, host func(step string, frame []byte) []byte) (caller, enclave *seal.Channel, err error) {
	c, err := seal.NewCaller(route, wire.KEMX25519)
	if err != nil {
		return nil, nil, err
	}
	r, err := seal.NewResponder(host("hello", c.Hello()), route)
	if err != nil {
		return nil, nil, err
	}
	message, err := e.Answer(r)
	if err != nil {
		return nil, nil, err
	}
	a, err := c.Receive(host("attest", message))
	if err != nil {
		return nil, nil, err
	}
	evidence, err := attest.Verify(nil, a.Document, e.Accepts(c.Nonce()), at)
	if err != nil {
		return nil, nil, err
	}
	if _, err := c.Bind(evidence, e.Authority.Root); err != nil {
		return nil, nil, err
	}
	frame, caller, err := c.Open(seal.Opening{Token: secret.New([]byte("a secret token"))})
	if err != nil {
		return nil, nil, err
	}
	if bytes.Contains(frame, []byte("a secret token")) {
		return nil, nil, errors.New("the token is visible")
	}
	_, enclave, err = r.Open(host("open", frame))
	return caller, enclave, err
}

// No single change of a handshake leaves both ends with a session.
func TestHostileHandshake(t *testing.T) {
	e := testkit.NewEnclave(at)
	if _, _, err := handshake(e, func(_ string, frame []byte) []byte { return frame }); err != nil {
		t.Fatal(err)
	}
	steps := []string{"hello", "attest", "open"}
	for seed := range uint64(300) {
		r := rand.New(rand.NewPCG(seed, 3))
		target, how := steps[r.IntN(len(steps))], r.IntN(4)
		_, enclave, err := handshake(e, func(step string, frame []byte) []byte {
			if step != target {
				return frame
			}
			switch how {
			case 0:
				return frame[:r.IntN(len(frame))]
			case 1:
				return append(frame, byte(r.Uint32()))
			}
			frame = bytes.Clone(frame)
			frame[r.IntN(len(frame))] ^= 1 << r.IntN(8)
			return frame
		})
		if err == nil || enclave != nil {
			t.Fatalf("seed %d: a change of %s was not noticed", seed, target)
		}
	}
}
