package testkit_test

import (
	"reflect"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/cape-functions/cape/core/attest/testkit"
)

// TestCasesAreSteady: the same bytes in every run, so that vectors written from them only
// change when a case does.
func TestCasesAreSteady(t *testing.T) {
	first := testkit.Cases()
	for i, c := range testkit.Cases() {
		if !reflect.DeepEqual(c, first[i]) {
			t.Errorf("%s differs from run to run", c.Name)
		}
	}
}

// TestMostMustFail: every class has cases, and refusals outnumber acceptances.
func TestMostMustFail(t *testing.T) {
	count := make(map[string]int)
	for _, c := range testkit.Cases() {
		count[c.Want]++
	}
	refused := 0
	for _, class := range []string{"policy", "malformed", "root", "chain", "time", "signature", "debug", "pcr", "nonce", "field"} {
		if count[class] == 0 {
			t.Errorf("no case of class %s", class)
		}
		refused += count[class]
	}
	if refused < 2*count["accept"] {
		t.Errorf("%d refused, %d accepted", refused, count["accept"])
	}
}

func TestAuthoritiesDiffer(t *testing.T) {
	at := time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)
	a, b := testkit.NewAuthority("a", at), testkit.NewAuthority("b", at)
	if cmp.Equal(a.Root, b.Root) || a.LeafKey.Equal(b.LeafKey) {
		t.Error("two names, one authority")
	}
	if !cmp.Equal(a.Root, testkit.NewAuthority("a", at).Root) {
		t.Error("one name, two authorities")
	}
}
