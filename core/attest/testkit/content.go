package testkit

import (
	"bytes"
	"crypto/ed25519"
	"crypto/elliptic"
	"slices"
	"time"

	"github.com/cape-functions/cape/core/attest/nitro"
	"github.com/cape-functions/cape/core/attest/policy"
)

func edKey() any { return ed25519.NewKeyFromSeed(fill("leaf", ed25519.SeedSize)).Public() }

// times are of another time than the check.
func (w *workshop) times() []Case {
	after := func(d time.Duration) func(time.Time) time.Time {
		return func(time.Time) time.Time { return w.document.Timestamp.Add(d) }
	}
	valid := func(i int, from, to time.Duration) func(*Plan) {
		return func(p *Plan) {
			p.Chain[i].Template.NotBefore, p.Chain[i].Template.NotAfter = w.at.Add(from), w.at.Add(to)
		}
	}
	maxAge := func(d time.Duration) func(*policy.Policy) { return func(p *policy.Policy) { p.MaxAge = d } }
	archived := func(p *policy.Policy) { p.TimeFromDocument = true }
	return w.cases("time",
		change{name: "leaf-expired", plan: valid(4, -3*time.Hour, -time.Second)},
		change{name: "leaf-not-yet-valid", plan: valid(4, time.Second, 3*time.Hour)},
		change{name: "intermediate-expired", plan: valid(2, -3*time.Hour, -time.Second)},
		change{name: "intermediate-not-yet-valid", plan: valid(2, time.Second, 3*time.Hour)},
		change{name: "root-expired", plan: valid(0, -3*time.Hour, -time.Second)},
		change{name: "chain-expired-for-the-time-given", at: after(24 * 365 * time.Hour)},
		change{name: "too-old-by-a-millisecond", at: after(time.Hour + time.Millisecond)},
		change{name: "too-old-for-the-policy", at: after(time.Minute), policy: maxAge(30 * time.Second)},
		change{name: "ahead-by-more-than-5-minutes", at: after(-5*time.Minute - time.Millisecond)},
		change{name: "ahead-by-days", at: after(-time.Hour)},
		change{name: "no-time-given", at: func(time.Time) time.Time { return time.Time{} }},
		change{name: "archived-from-the-future", at: after(-6 * time.Minute), policy: archived},
		change{name: "archived-leaf-not-valid-then", plan: valid(4, time.Second, 3*time.Hour), policy: archived},
	)
}

// signatures were not made by the leaf over these bytes.
func (w *workshop) signatures() []Case {
	sig := func(f func(s []byte) []byte) func(*Draft) { return func(d *Draft) { d.Signature = f } }
	part := func(from, to int, value []byte) func(*Draft) {
		return sig(func(s []byte) []byte { copy(s[from:to], value); return s })
	}
	zero := make([]byte, 96)
	order := elliptic.P384().Params().N.Bytes()
	other := w.authority.Draft(w.document)
	return w.cases("signature",
		change{name: "signature-flipped-bit", draft: sig(func(s []byte) []byte { s[95] ^= 1; return s })},
		change{name: "signature-r-zero", draft: part(0, 48, zero)},
		change{name: "signature-s-zero", draft: part(48, 96, zero)},
		change{name: "signature-all-zero", draft: part(0, 96, zero)},
		change{name: "signature-r-is-the-order", draft: part(0, 48, order)},
		change{name: "signature-s-is-the-order", draft: part(48, 96, order)},
		change{name: "signature-all-ones", draft: part(0, 96, bytes.Repeat([]byte{0xff}, 96))},
		change{name: "signature-halves-swapped", draft: sig(func(s []byte) []byte { return slices.Concat(s[48:], s[:48]) })},
		change{name: "signature-by-another-key", draft: func(d *Draft) { d.Key = Key("impostor") }},
		change{name: "signature-by-the-root", draft: func(d *Draft) { d.Key = Key("cape tests root") }},
		change{name: "payload-changed-afterwards", draft: func(d *Draft) {
			d.Signature = func([]byte) []byte { return signature(other.Protected, Items(Map, 9, concat(other.Fields)), other.Key) }
			d.Set("nonce", BytesItem(fill("other", 32)))
		}, policy: func(p *policy.Policy) { p.Nonce = fill("other", 32) }},
		change{name: "payload-encoded-again", draft: func(d *Draft) {
			d.Signature = func([]byte) []byte { return signature(other.Protected, Items(Map, 9, concat(other.Fields)), other.Key) }
			d.Payload = func(f []Field) []byte { return Indefinite(Map, concat(f)) }
		}},
		change{name: "protected-encoded-again", draft: func(d *Draft) {
			d.Signature = func([]byte) []byte { return signature(other.Protected, Items(Map, 9, concat(other.Fields)), other.Key) }
			d.Protected = Indefinite(Map, []byte{0x01, 0x38, 0x22})
		}},
	)
}

// measurements are of debug mode, or of another enclave than the policy expects.
func (w *workshop) measurements() []Case {
	zero := func(indexes ...int) func(*nitro.Document) {
		return func(d *nitro.Document) {
			for _, i := range indexes {
				d.PCRs[i] = nitro.PCR{}
			}
		}
	}
	without := func(i int) func(*nitro.Document) { return func(d *nitro.Document) { delete(d.PCRs, i) } }
	want := func(i int, v ...nitro.PCR) func(*policy.Policy) { return func(p *policy.Policy) { p.PCRs[i] = v } }
	notChecked := func(p *policy.Policy) { p.PCRs, p.PCRsNotChecked = nil, true }
	debug := w.cases("debug",
		change{name: "debug", document: zero(0, 1, 2)},
		change{name: "debug-expected", document: zero(0, 1, 2), policy: func(p *policy.Policy) {
			p.PCRs = map[int][]nitro.PCR{0: {{}}, 1: {{}}, 2: {{}}}
		}},
		change{name: "debug-pcrs-not-checked", document: zero(0, 1, 2), policy: notChecked},
		change{name: "debug-pcr-0-alone", document: zero(0), policy: want(0, nitro.PCR{})},
		change{name: "debug-pcr-1-alone", document: zero(1), policy: want(1, nitro.PCR{})},
		change{name: "debug-pcr-2-alone", document: zero(2), policy: want(2, nitro.PCR{})},
	)
	return append(debug, w.cases("pcr",
		change{name: "pcr-0-differs", policy: want(0, PCR(9))},
		change{name: "pcr-1-differs", policy: want(1, PCR(9))},
		change{name: "pcr-2-differs", policy: want(2, PCR(9))},
		change{name: "pcr-8-differs", policy: want(8, PCR(9))},
		change{name: "pcr-8-zero", document: zero(8), policy: want(8, PCR(8))},
		change{name: "pcr-none-of-two", policy: want(0, PCR(9), PCR(10))},
		change{name: "pcr-of-another-index", policy: want(0, PCR(1), PCR(2))},
		change{name: "pcr-0-missing", document: without(0)},
		change{name: "pcr-1-missing", document: without(1)},
		change{name: "pcr-2-missing", document: without(2)},
		change{name: "pcr-8-missing", document: without(8), policy: want(8, PCR(8))},
		change{name: "pcr-16-missing", policy: want(16, PCR(16))},
		change{name: "pcr-16-missing-zero-expected", policy: want(16, nitro.PCR{})},
		change{name: "pcr-0-missing-not-checked", document: without(0), policy: notChecked},
		change{name: "debug-allowed-but-measured", document: zero(0, 1, 2), policy: func(p *policy.Policy) { p.AllowDebug = true }},
	)...)
}

func (w *workshop) nonces() []Case {
	n := w.document.Nonce
	flipped := slices.Clone(n)
	flipped[31] ^= 1
	return w.cases("nonce",
		change{name: "nonce-absent", draft: drop("nonce")},
		change{name: "nonce-null", draft: set("nonce", []byte{Null})},
		change{name: "nonce-empty", draft: set("nonce", BytesItem(nil))},
		change{name: "nonce-wrong", draft: set("nonce", BytesItem(flipped))},
		change{name: "nonce-prefix", draft: set("nonce", BytesItem(n[:16]))},
		change{name: "nonce-longer", draft: set("nonce", BytesItem(append(slices.Clone(n), 0)))},
		change{name: "nonce-replayed", policy: func(p *policy.Policy) { p.Nonce = fill("a later one", 32) }},
		change{name: "nonce-in-another-field", draft: func(d *Draft) { d.Drop("nonce"); d.Set("user_data", BytesItem(n)) }},
		change{name: "nonce-under-capital-key", draft: func(d *Draft) { d.Drop("nonce"); d.Set("Nonce", BytesItem(n)) }},
	)
}

func (w *workshop) fields() []Case {
	key := func(p *policy.Policy) { p.RequirePublicKey = true }
	data := func(p *policy.Policy) { p.RequireUserData = true }
	return w.cases("field",
		change{name: "required-public-key-absent", draft: drop("public_key"), policy: key},
		change{name: "required-public-key-null", draft: set("public_key", []byte{Null}), policy: key},
		change{name: "required-public-key-empty", draft: set("public_key", BytesItem(nil)), policy: key},
		change{name: "required-user-data-absent", draft: drop("user_data"), policy: data},
		change{name: "required-user-data-null", draft: set("user_data", []byte{Null}), policy: data},
		change{name: "required-user-data-empty", draft: set("user_data", BytesItem(nil)), policy: data},
	)
}

// policies cannot be used, whatever the document.
func (w *workshop) policies() []Case {
	p := func(f func(p *policy.Policy)) func(*policy.Policy) { return f }
	return w.cases("policy",
		change{name: "policy-zero", policy: p(func(p *policy.Policy) { *p = policy.Policy{} })},
		change{name: "policy-without-roots", policy: p(func(p *policy.Policy) { p.Roots = nil })},
		change{name: "policy-with-empty-root", policy: p(func(p *policy.Policy) { p.Roots = append(p.Roots, nil) })},
		change{name: "policy-without-pcrs", policy: p(func(p *policy.Policy) { p.PCRs = nil })},
		change{name: "policy-with-empty-list", policy: p(func(p *policy.Policy) { p.PCRs[1] = nil })},
		change{name: "policy-with-pcr-32", policy: p(func(p *policy.Policy) { p.PCRs[32] = []nitro.PCR{PCR(3)} })},
		change{name: "policy-with-pcr-negative", policy: p(func(p *policy.Policy) { p.PCRs[-1] = []nitro.PCR{PCR(3)} })},
		change{name: "policy-with-kernel-alone", policy: p(func(p *policy.Policy) { p.PCRs = map[int][]nitro.PCR{1: {PCR(1)}} })},
		change{name: "policy-with-pcr-8-zero-alone", policy: p(func(p *policy.Policy) { p.PCRs = map[int][]nitro.PCR{8: {PCR(8), {}}} })},
		change{name: "policy-pcrs-both-ways", policy: p(func(p *policy.Policy) { p.PCRsNotChecked = true })},
		change{name: "policy-without-nonce", policy: p(func(p *policy.Policy) { p.Nonce = nil })},
		change{name: "policy-with-empty-nonce", policy: p(func(p *policy.Policy) { p.Nonce = []byte{} })},
		change{name: "policy-with-short-nonce", policy: p(func(p *policy.Policy) { p.Nonce = fill("n", 15) })},
		change{name: "policy-with-long-nonce", policy: p(func(p *policy.Policy) { p.Nonce = fill("n", 1025) })},
		change{name: "policy-nonce-both-ways", policy: p(func(p *policy.Policy) { p.NonceNotChecked = true })},
		change{name: "policy-with-negative-age", policy: p(func(p *policy.Policy) { p.MaxAge = -time.Second })},
		change{name: "policy-time-both-ways", policy: p(func(p *policy.Policy) { p.MaxAge, p.TimeFromDocument = time.Minute, true })},
	)
}
