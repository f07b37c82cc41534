package testkit

import (
	"time"

	"github.com/cape-functions/cape/core/attest/nitro"
	"github.com/cape-functions/cape/core/attest/policy"
)

// order are documents with two faults: every verifier stops at the same one, and looks at
// no signature of a leaf that it does not trust.
func (w *workshop) order() []Case {
	zero := func(d *nitro.Document) { d.PCRs[0], d.PCRs[1], d.PCRs[2] = nitro.PCR{}, nitro.PCR{}, nitro.PCR{} }
	flip := func(d *Draft) { d.Signature = func(s []byte) []byte { s[95] ^= 1; return s } }
	swap := func(d *nitro.Document) {
		b := w.authority.CABundle
		d.CABundle = [][]byte{b[0], b[2], b[1], b[3]}
	}
	otherRoot := func(p *policy.Policy) { p.Roots = [][]byte{NewAuthority("somebody else", w.at).Root} }
	otherPCR := func(p *policy.Policy) { p.PCRs[0] = []nitro.PCR{PCR(9)} }
	otherNonce := func(p *policy.Policy) { p.Nonce = fill("other", 32) }
	both := func(f ...func(*policy.Policy)) func(*policy.Policy) {
		return func(p *policy.Policy) {
			for _, g := range f {
				g(p)
			}
		}
	}
	old := func(at time.Time) time.Time { return at.Add(90 * time.Minute) }
	expired := func(at time.Time) time.Time { return at.Add(9 * time.Hour) }
	one := func(want string, c change) Case { return w.make(want, c) }
	return []Case{
		one("policy", change{name: "order-policy-before-malformed", draft: func(d *Draft) { d.After = []byte{0} },
			policy: func(p *policy.Policy) { p.Roots = nil }}),
		one("malformed", change{name: "order-malformed-before-root", draft: func(d *Draft) { d.After = []byte{0} }, policy: otherRoot}),
		one("root", change{name: "order-root-before-chain", document: swap, policy: otherRoot}),
		one("chain", change{name: "order-chain-before-time", document: swap, at: expired}),
		one("chain", change{name: "order-chain-before-signature", document: swap, draft: flip}),
		one("time", change{name: "order-validity-before-signature", draft: flip, at: expired}),
		one("signature", change{name: "order-signature-before-age", draft: flip, at: old}),
		one("signature", change{name: "order-signature-before-nonce", draft: flip, policy: otherNonce}),
		one("time", change{name: "order-age-before-debug", document: zero, at: old}),
		one("debug", change{name: "order-debug-before-pcr", document: zero, policy: otherPCR}),
		one("pcr", change{name: "order-pcr-before-nonce", policy: both(otherPCR, otherNonce)}),
		one("nonce", change{name: "order-nonce-before-field", draft: drop("public_key"),
			policy: both(otherNonce, func(p *policy.Policy) { p.RequirePublicKey = true })}),
	}
}
