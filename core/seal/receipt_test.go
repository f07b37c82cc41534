package seal_test

import (
	"crypto/sha256"
	"errors"
	"testing"

	"github.com/cape-functions/cape/core/seal"
	"github.com/cape-functions/cape/core/wire"
)

func TestReceipts(t *testing.T) {
	b := connect(t, seal.Opening{})
	auditor := seal.NewAuditor(b.attested)
	fn, in, out := sha256.Sum256([]byte("zip")), sha256.Sum256([]byte("in")), sha256.Sum256([]byte("out"))
	sums := wire.Checksums{Input: in[:], Function: fn[:], Output: out[:]}
	var first *wire.Result
	for id := uint64(1); id <= 3; id++ {
		raw, openings, err := b.notary.Sign(id, sums, at)
		if err != nil {
			t.Fatal(err)
		}
		result := &wire.Result{ID: id, Checksums: sums, Receipt: raw, Openings: openings}
		if first == nil {
			first = result
		}
		got, err := auditor.Check(result, in, fn, out)
		if err != nil {
			t.Fatal(err)
		}
		if got.Time != uint64(at.UnixMilli()) {
			t.Errorf("time %d", got.Time)
		}
		if got.OpensInput(openings.Out, in) || got.OpensInput(openings.In, out) || !got.OpensOutput(openings.Out, out) {
			t.Error("openings")
		}
	}
	if _, err := auditor.Check(first, in, fn, out); !errors.Is(err, seal.ErrReceipt) {
		t.Errorf("a repeated receipt: %v", err)
	}
}

func TestAuditorRefuses(t *testing.T) {
	fn, in, out := sha256.Sum256([]byte("zip")), sha256.Sum256([]byte("in")), sha256.Sum256([]byte("out"))
	sums := wire.Checksums{Input: in[:], Function: fn[:], Output: out[:]}
	other := sha256.Sum256([]byte("other"))
	for name, change := range map[string]func(r *wire.Result, b *both){
		"another id":                     func(r *wire.Result, _ *both) { r.ID = 2 },
		"openings swapped":               func(r *wire.Result, _ *both) { r.Openings.In, r.Openings.Out = r.Openings.Out, r.Openings.In },
		"another key for the input":      func(r *wire.Result, _ *both) { r.Openings.In = other[:] },
		"another key for the output":     func(r *wire.Result, _ *both) { r.Openings.Out = other[:] },
		"no openings":                    func(r *wire.Result, _ *both) { r.Openings = wire.Openings{} },
		"another input sum":              func(r *wire.Result, _ *both) { r.Checksums.Input = other[:] },
		"another output sum":             func(r *wire.Result, _ *both) { r.Checksums.Output = other[:] },
		"another function":               func(r *wire.Result, _ *both) { r.Checksums.Function = other[:] },
		"another route":                  func(_ *wire.Result, b *both) { b.attested.Route = "/v1/run/other" },
		"a receipt for another function": func(*wire.Result, *both) {},
		"one left out":                   func(r *wire.Result, b *both) { again(r, b, sums) },
		"receipt for another": func(r *wire.Result, b *both) {
			again(r, b, wire.Checksums{Input: in[:], Function: other[:], Output: out[:]})
		},
	} {
		b := connect(t, seal.Opening{})
		signed := sums
		if name == "a receipt for another function" {
			signed.Function = other[:]
		}
		raw, openings, err := b.notary.Sign(1, signed, at)
		if err != nil {
			t.Fatal(err)
		}
		result := &wire.Result{ID: 1, Checksums: sums, Receipt: raw, Openings: openings}
		change(result, b)
		if _, err := seal.NewAuditor(b.attested).Check(result, in, fn, out); !errors.Is(err, seal.ErrReceipt) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// again replaces a result by the next of the same session.
func again(r *wire.Result, b *both, sums wire.Checksums) {
	raw, openings, err := b.notary.Sign(1, sums, at)
	if err == nil {
		r.Receipt, r.Openings = raw, openings
	}
}
