package seal_test

import (
	"bytes"
	"errors"
	"testing"

	"github.com/cape-functions/cape/core/seal"
)

func newKey(t testing.TB) *seal.SessionKey {
	t.Helper()
	key, err := seal.NewSessionKey()
	if err != nil {
		t.Fatal(err)
	}
	return key
}

func sealed(t testing.TB, key *seal.SessionKey, plaintext []byte) []byte {
	t.Helper()
	frame, err := seal.SealV1(key.Public(), plaintext)
	if err != nil {
		t.Fatal(err)
	}
	return frame
}

func TestSealV1(t *testing.T) {
	key := newKey(t)
	for _, size := range []int{0, 1, 31, 1 << 10, 1 << 20} {
		plaintext := bytes.Repeat([]byte{0xa5}, size)
		frame := sealed(t, key, plaintext)
		if len(frame) != size+seal.FrameOverhead {
			t.Errorf("%d bytes become %d", size, len(frame))
		}
		got, err := key.Open(frame)
		if err != nil || !bytes.Equal(got, plaintext) {
			t.Errorf("%d bytes: %v", size, err)
		}
		// Each frame is a single shot of its own: order does not matter.
		if _, err := key.Open(frame); err != nil {
			t.Errorf("again: %v", err)
		}
	}
	if bytes.Equal(sealed(t, key, nil), sealed(t, key, nil)) {
		t.Error("two frames are equal")
	}
}

func TestOpenRefuses(t *testing.T) {
	key := newKey(t)
	frame := sealed(t, key, []byte("input"))
	flip := func(i int) []byte {
		c := bytes.Clone(frame)
		c[i] ^= 1
		return c
	}
	for _, c := range []struct {
		name  string
		frame []byte
		want  error
	}{
		{"nothing", nil, seal.ErrFrame},
		{"key alone", frame[:32], seal.ErrFrame},
		{"a byte short of key and tag", frame[:47], seal.ErrFrame},
		{"cut", frame[:len(frame)-1], seal.ErrOpen},
		{"longer", append(bytes.Clone(frame), 0), seal.ErrOpen},
		{"key changed", flip(3), seal.ErrOpen},
		{"ciphertext changed", flip(33), seal.ErrOpen},
		{"tag changed", flip(len(frame) - 1), seal.ErrOpen},
		{"low order key", append(make([]byte, 32), frame[32:]...), seal.ErrOpen},
		{"another's", sealed(t, newKey(t), []byte("input")), seal.ErrOpen},
	} {
		if got, err := key.Open(c.frame); !errors.Is(err, c.want) || got != nil {
			t.Errorf("%s: %v", c.name, err)
		}
	}
	if got, err := key.Open(frame); err != nil || string(got) != "input" {
		t.Errorf("after the refusals: %v", err)
	}
	key.Wipe()
	if _, err := key.Open(frame); !errors.Is(err, seal.ErrWiped) {
		t.Errorf("wiped: %v", err)
	}
}

func TestSealV1RefusesKeys(t *testing.T) {
	for name, public := range map[string][]byte{
		"none": nil, "short": make([]byte, 31), "long": make([]byte, 33), "low order": make([]byte, 32),
	} {
		if _, err := seal.SealV1(public, []byte("x")); !errors.Is(err, seal.ErrPublicKey) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestPublicIsACopy(t *testing.T) {
	key := newKey(t)
	clear(key.Public())
	if _, err := key.Open(sealed(t, key, nil)); err != nil {
		t.Error(err)
	}
}

func FuzzOpenV1(f *testing.F) {
	// A fixed key: the seeds of one process must open in the others.
	key, err := seal.SessionKeyFrom(bytes.Repeat([]byte{7}, 32))
	if err != nil {
		f.Fatal(err)
	}
	f.Add([]byte{})
	f.Add(sealed(f, key, nil))
	f.Add(sealed(f, key, []byte("input")))
	f.Add(bytes.Repeat([]byte{0xff}, 100))
	f.Fuzz(func(t *testing.T, frame []byte) {
		got, err := key.Open(frame)
		if err == nil && len(got) != len(frame)-seal.FrameOverhead {
			t.Errorf("%d bytes of %d", len(got), len(frame))
		}
	})
}
