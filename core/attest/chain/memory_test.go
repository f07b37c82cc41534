package chain_test

import (
	"encoding/binary"
	"errors"
	"testing"
	"time"

	"github.com/cape-functions/cape/core/attest/chain"
	"github.com/cape-functions/cape/core/attest/testkit"
)

func number(i int) (id [32]byte) {
	binary.BigEndian.PutUint64(id[:], uint64(i))
	return id
}

// TestMemoryIsBounded: the oldest chain makes room, and one that is there takes none.
func TestMemoryIsBounded(t *testing.T) {
	v := chain.New()
	for i := range 3 * chain.MaxRemembered {
		v.Remember(number(i))
		v.Remember(number(i))
		if seen, order := v.Remembered(); seen > chain.MaxRemembered || seen != order {
			t.Fatalf("%d chains, %d in order", seen, order)
		}
	}
	for i := range 3 * chain.MaxRemembered {
		if kept := v.Recalls(number(i)); kept != (i >= 2*chain.MaxRemembered) {
			t.Errorf("chain %d kept: %v", i, kept)
		}
	}
}

// TestMemoryIsUsed puts another key in the place of the remembered one and sees it used;
// chains that failed are not remembered.
func TestMemoryIsUsed(t *testing.T) {
	a := testkit.NewAuthority("memory", at)
	s := parse(t, a.Sign(a.Document(at)))
	v, roots := chain.New(), [][]byte{a.Root}
	count := func() int { seen, _ := v.Remembered(); return seen }
	if _, err := v.Verify(s, roots, at.Add(24*time.Hour)); !errors.Is(err, chain.ErrTime) || count() != 0 {
		t.Errorf("expired: %v, %d remembered", err, count())
	}
	broken := *s
	broken.Document.CABundle = a.CABundle[:3]
	if _, err := v.Verify(&broken, roots, at); !errors.Is(err, chain.ErrChain) || count() != 0 {
		t.Errorf("broken: %v, %d remembered", err, count())
	}
	if _, err := v.Verify(s, roots, at); err != nil || count() != 1 {
		t.Fatalf("sound: %v, %d remembered", err, count())
	}
	v.Replace(s, &testkit.Key("other").PublicKey)
	if _, err := v.Verify(s, roots, at); !errors.Is(err, chain.ErrSignature) {
		t.Errorf("the remembered key was not used: %v", err)
	}
}
