package testkit

import (
	"slices"
	"time"

	"github.com/cape-functions/cape/core/attest/nitro"
	"github.com/cape-functions/cape/core/attest/policy"
)

// Case is a document, a policy and a time, and what every verifier must make of them.
type Case struct {
	// Name is unique, lower case, words joined by hyphens.
	Name string
	// Document is what arrived.
	Document []byte
	// At is the time of the check; zero when none was given.
	At time.Time
	// Policy is what the verifier accepts, nonce and roots included.
	Policy policy.Policy
	// Want is "accept" or the class of the refusal, as attest.Class names it.
	Want string
}

// Cases returns every case, in a fixed order; most must fail.
func Cases() []Case {
	w := newWorkshop()
	return slices.Concat(w.sound(), w.soundForms(), w.soundPolicies(), w.malformedCOSE(), w.malformedSignatures(), w.malformedHeaders(),
		w.malformedPayload(), w.malformedFields(), w.malformedPCRs(), w.bombs(), w.roots(), w.chains(), w.leaves(),
		w.times(), w.signatures(), w.measurements(), w.nonces(), w.fields(), w.policies(), w.order())
}

// workshop holds what the cases are made from.
type workshop struct {
	at        time.Time
	authority *Authority
	document  nitro.Document
	policy    policy.Policy
}

func newWorkshop() *workshop {
	at := time.Date(2026, time.March, 1, 12, 0, 0, 0, time.UTC)
	a := NewAuthority("cape tests", at)
	w := &workshop{at: at, authority: a, document: a.Document(at.Add(-time.Minute))}
	w.policy = policy.Policy{
		Roots: [][]byte{a.Root},
		PCRs:  map[int][]nitro.PCR{0: {PCR(0)}, 1: {PCR(1)}, 2: {PCR(2)}},
		Nonce: w.document.Nonce,
	}
	return w
}

// change is one way in which a case differs from a sound document under a fit policy.
type change struct {
	name     string
	document func(d *nitro.Document)
	draft    func(d *Draft)
	plan     func(p *Plan)
	policy   func(p *policy.Policy)
	at       func(at time.Time) time.Time
}

// cases makes one case of each change, all with the same outcome. A changed plan makes an
// authority of its own, whose root the policy then accepts unless the change says else.
func (w *workshop) cases(want string, changes ...change) []Case {
	out := make([]Case, 0, len(changes))
	for _, c := range changes {
		out = append(out, w.make(want, c))
	}
	return out
}

func (w *workshop) make(want string, c change) Case {
	a, doc, p, at := w.authority, w.document, w.policy, w.at
	doc.PCRs, p.PCRs = cloneMap(doc.PCRs), cloneMap(p.PCRs)
	if c.plan != nil {
		plan := NewPlan("cape tests", w.at)
		c.plan(plan)
		a = plan.Make()
		doc.Certificate, doc.CABundle = a.Leaf, a.CABundle
		p.Roots = [][]byte{a.Root}
	}
	if c.document != nil {
		c.document(&doc)
	}
	draft := a.Draft(doc)
	if c.draft != nil {
		c.draft(draft)
	}
	if c.policy != nil {
		c.policy(&p)
	}
	if c.at != nil {
		at = c.at(at)
	}
	return Case{Name: c.name, Document: draft.Bytes(), At: at, Policy: p, Want: want}
}

func cloneMap[V any](m map[int]V) map[int]V {
	out := make(map[int]V, len(m))
	for k, v := range m {
		out[k] = v
	}
	return out
}

// set is the draft change of most cases: one field with another value.
func set(name string, value []byte) func(*Draft) {
	return func(d *Draft) { d.Set(name, value) }
}

func drop(name string) func(*Draft) {
	return func(d *Draft) { d.Drop(name) }
}

// pcrs encodes a map of PCRs with these indexes, whose values Document would have; the
// first three always are 0, 1 and 2.
func pcrs(indexes ...int) []byte {
	var pairs [][]byte
	for _, i := range append([]int{0, 1, 2}, indexes...) {
		pairs = append(pairs, pcrItem(i))
	}
	return Items(Map, len(pairs), pairs...)
}

func pcrItem(i int) []byte {
	value := PCR(i)
	return slices.Concat(Head(Unsigned, uint64(i)), BytesItem(value[:]))
}
