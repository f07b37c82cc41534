package trust_test

import (
	"encoding/hex"
	"errors"
	"slices"
	"strconv"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/cape-functions/cape/client/trust"
	"github.com/cape-functions/cape/core/attest/nitro"
	attestkit "github.com/cape-functions/cape/core/attest/testkit"
	"github.com/cape-functions/cape/core/wire"
)

// TestWhatTheKeyOpensFor: measurements that are accepted are worth nothing if the KMS key
// opens for others.
func TestWhatTheKeyOpensFor(t *testing.T) {
	image, signer, other, next := attestkit.PCR(0), attestkit.PCR(8), attestkit.PCR(60), attestkit.PCR(61)
	list := func(p ...nitro.PCR) []nitro.PCR { return p }
	for _, tc := range []struct {
		name       string
		accepted   map[int][]nitro.PCR
		pcr0, pcr8 []nitro.PCR
		want       []string // what is refused
	}{
		{"its signer", map[int][]nitro.PCR{0: list(image), 8: list(signer)}, nil, list(signer), nil},
		{"another signer", map[int][]nitro.PCR{0: list(image), 8: list(signer)}, nil, list(signer, other), []string{"PCR8 " + other.String()}},
		{"two others", map[int][]nitro.PCR{0: list(image), 8: list(signer)}, nil, list(other, next, signer), []string{"PCR8 " + other.String(), "PCR8 " + next.String()}},
		{"the next signer, accepted", map[int][]nitro.PCR{0: list(image), 8: list(signer, next)}, nil, list(signer, next), nil},
		{"no signer accepted", map[int][]nitro.PCR{0: list(image)}, nil, list(signer), []string{"PCR8 " + signer.String()}},
		{"its image", map[int][]nitro.PCR{0: list(image), 8: list(signer)}, list(image), list(signer), nil},
		{"its image, any signer", map[int][]nitro.PCR{0: list(image), 8: list(signer)}, list(image), list(signer, other), nil},
		{"another image", map[int][]nitro.PCR{0: list(image), 8: list(signer)}, list(image, other), list(signer), []string{"PCR0 " + other.String()}},
		{"another image, no signer accepted", map[int][]nitro.PCR{0: list(image)}, list(image, other), list(signer), []string{"PCR0 " + other.String()}},
		{"another image, accepted", map[int][]nitro.PCR{0: list(image, other)}, list(image, other), list(signer), nil},
		{"another image of a signer whose images are all accepted", map[int][]nitro.PCR{8: list(signer)}, list(image, other), list(signer), nil},
		{"another image of another signer", map[int][]nitro.PCR{8: list(signer)}, list(image, other), list(signer, other), []string{"PCR8 " + other.String()}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			for name, judge := range map[string]func(b *bench) trust.Judge{
				"stated":    func(b *bench) trust.Judge { b.FirstUse, b.PCRs = false, tc.accepted; return b },
				"first use": func(b *bench) trust.Judge { b.PCRs = tc.accepted; return b },
				"policy": func(b *bench) trust.Judge {
					return trust.Policy{Roots: b.Roots, PCRs: tc.accepted, KeyPolicyNotChecked: true}
				},
				"entry": func(b *bench) trust.Judge { b.pinOnly(t, tc.accepted); return b },
			} {
				if name == "entry" && tc.accepted[0] == nil {
					continue // entries have images
				}
				b := newBench(t)
				b.doc.PCRs[0], b.doc.PCRs[8] = image, signer
				j := judge(b)
				b.pcr0, b.pcr8 = tc.pcr0, tc.pcr8
				before := b.entry(t)
				_, err := j.Enclave(t.Context(), b.contact())
				var got []string
				var change *trust.Change
				if errors.As(err, &change) {
					for _, d := range change.Differences {
						got = append(got, d.What[len("the key opens for "):]+" "+d.New)
					}
				} else if err != nil {
					t.Errorf("%s: %v", name, err)
				}
				if diff := cmp.Diff(tc.want, got); diff != "" {
					t.Errorf("%s: %s", name, diff)
				}
				if diff := cmp.Diff(before, b.entry(t)); err != nil && diff != "" {
					t.Errorf("%s: what was refused is remembered: %s", name, diff)
				}
			}
		})
	}
}

// pinOnly makes an entry as `cape trust pin` does: measurements, and no key policy.
func (b *bench) pinOnly(t *testing.T, pcrs map[int][]nitro.PCR) {
	t.Helper()
	policy := b.policy
	b.policy = nil
	if _, err := b.meet(t); err != nil {
		t.Fatal(err)
	}
	b.policy, b.FirstUse = policy, false
	err := b.Store.Update(t.Context(), func(f *wire.TrustFile) error {
		delete(f.Origins[origin].PCRs, "8")
		for i, values := range pcrs {
			delete(f.Origins[origin].PCRs, strconv.Itoa(i))
			for _, v := range values {
				f.Origins[origin].PCRs[strconv.Itoa(i)] = append(f.Origins[origin].PCRs[strconv.Itoa(i)], v.String())
			}
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
}

// TestAcceptedPolicyStays: one that was accepted at first contact, which shows whom it opens
// for, or with stated measurements, is known by its sum from then on.
func TestAcceptedPolicyStays(t *testing.T) {
	b := newBench(t)
	other := attestkit.PCR(60)
	b.pcr0, b.pcr8 = []nitro.PCR{b.doc.PCRs[0], other}, []nitro.PCR{b.doc.PCRs[8]}
	b.ask(true)
	for range 2 {
		if _, err := b.meet(t); err != nil {
			t.Fatal(err)
		}
	}
	if images, signers := b.asked[0].Others(); len(b.asked) != 1 || !slices.Equal(images, []nitro.PCR{other}) || signers != nil {
		t.Errorf("shown %v, %v", images, signers)
	}
	if slices.Contains(b.kinds(), trust.OpensForOthers) {
		t.Error("announced to somebody who was asked")
	}

	b = newBench(t)
	b.pcr8 = []nitro.PCR{b.doc.PCRs[8], other}
	b.pinOnly(t, map[int][]nitro.PCR{0: {b.doc.PCRs[0]}, 8: {b.doc.PCRs[8]}})
	b.PCRs = map[int][]nitro.PCR{8: b.pcr8}
	if _, err := b.meet(t); err != nil || b.entry(t).KeyPolicy != hex.EncodeToString(b.policy) {
		t.Fatalf("stated: %v", err)
	}
	b.PCRs = nil
	if _, err := b.meet(t); err != nil {
		t.Errorf("afterwards: %v", err)
	}
}

// TestFirstUseSaysWhatTheKeyOpensFor: nobody was asked, so it is announced.
func TestFirstUseSaysWhatTheKeyOpensFor(t *testing.T) {
	for name, tc := range map[string]struct {
		pcr0, pcr8 []nitro.PCR
		want       bool
	}{
		"any image of its signer": {nil, []nitro.PCR{attestkit.PCR(8)}, true},
		"another image":           {[]nitro.PCR{attestkit.PCR(0), attestkit.PCR(60)}, []nitro.PCR{attestkit.PCR(8)}, true},
		"its image alone":         {[]nitro.PCR{attestkit.PCR(0)}, []nitro.PCR{attestkit.PCR(8)}, false},
		"a document of v1":        {},
	} {
		b := newBench(t)
		b.doc.PCRs[0], b.doc.PCRs[8] = attestkit.PCR(0), attestkit.PCR(8)
		b.pcr0, b.pcr8 = tc.pcr0, tc.pcr8
		if _, err := b.meet(t); err != nil || slices.Contains(b.kinds(), trust.OpensForOthers) != tc.want {
			t.Errorf("%s: %v, %v", name, err, b.kinds())
		}
	}
}

// TestUnseenPolicyIsNotAdopted: a document of v1 has the policy's sum, and does not show what
// it admits. Known by its sum, it would never be looked at.
func TestUnseenPolicyIsNotAdopted(t *testing.T) {
	b := newBench(t)
	b.pinOnly(t, map[int][]nitro.PCR{0: {b.doc.PCRs[0]}, 8: {b.doc.PCRs[8]}})
	if _, err := b.meet(t); err != nil || b.entry(t).KeyPolicy != "" {
		t.Errorf("into an entry: %v, %+v", err, b.entry(t))
	}
	b = newBench(t)
	b.PCRs = map[int][]nitro.PCR{0: {b.doc.PCRs[0]}}
	if _, err := b.meet(t); err != nil || b.entry(t).KeyPolicy != "" {
		t.Errorf("with stated measurements: %v, %+v", err, b.entry(t))
	}
}
