package testkit

import (
	"bytes"
	"crypto/elliptic"
	"math/big"
	"slices"
	"time"

	"github.com/cape-functions/cape/core/attest/nitro"
	"github.com/cape-functions/cape/core/attest/policy"
)

// sound are documents that differ in what they hold.
func (w *workshop) sound() []Case {
	upTo := func(n int) []byte {
		var more []int
		for i := 3; i < n; i++ {
			more = append(more, i)
		}
		return pcrs(more...)
	}
	anyNonce := func(p *policy.Policy) { p.Nonce, p.NonceNotChecked = nil, true }
	return w.cases("accept",
		change{name: "plain"},
		change{name: "pcrs-17", draft: set("pcrs", upTo(17))},
		change{name: "pcrs-32", draft: set("pcrs", upTo(32))},
		change{name: "pcrs-any-index", draft: set("pcrs", pcrs(31, 16, 7))},
		change{name: "public-key-absent", draft: drop("public_key")},
		change{name: "public-key-null", draft: set("public_key", []byte{Null})},
		change{name: "public-key-empty", draft: set("public_key", BytesItem(nil))},
		change{name: "public-key-1024", draft: set("public_key", BytesItem(fill("k", 1024)))},
		change{name: "user-data-absent", draft: drop("user_data")},
		change{name: "user-data-null", draft: set("user_data", []byte{Null})},
		change{name: "user-data-empty", draft: set("user_data", BytesItem(nil))},
		change{name: "user-data-1024", draft: set("user_data", BytesItem(fill("u", 1024)))},
		change{name: "nonce-absent-not-checked", draft: drop("nonce"), policy: anyNonce},
		change{name: "nonce-null-not-checked", draft: set("nonce", []byte{Null}), policy: anyNonce},
		change{name: "nonce-empty-not-checked", draft: set("nonce", BytesItem(nil)), policy: anyNonce},
		change{name: "nonce-1024", draft: set("nonce", BytesItem(fill("n", 1024))),
			policy: func(p *policy.Policy) { p.Nonce = fill("n", 1024) }},
		change{name: "nonce-16", draft: set("nonce", BytesItem(fill("n", 16))),
			policy: func(p *policy.Policy) { p.Nonce = fill("n", 16) }},
		change{name: "bundle-of-root-alone", plan: func(p *Plan) { p.Chain = []*Certificate{p.Chain[0], p.Leaf()} }},
		change{name: "bundle-of-8", plan: longChain(8)},
		change{name: "signature-with-high-s", draft: func(d *Draft) {
			d.Signature = func(sig []byte) []byte {
				s := new(big.Int).SetBytes(sig[48:])
				s.Sub(elliptic.P384().Params().N, s).FillBytes(sig[48:])
				return sig
			}
		}},
	)
}

// longChain plans a bundle of n certificates without path lengths.
func longChain(n int) func(*Plan) {
	return func(p *Plan) {
		chain := []*Certificate{p.Chain[0]}
		for i := 1; i < n; i++ {
			c := newCertificate("cape tests", "authority "+string(rune('0'+i)), 10+i,
				p.Leaf().Template.NotBefore, p.Leaf().Template.NotAfter, -1)
			chain = append(chain, c)
		}
		p.Chain = append(chain, p.Leaf())
	}
}

// soundForms are the same document in other encodings.
func (w *workshop) soundForms() []Case {
	indefinitePairs := func(fields []Field) []byte { return Indefinite(Map, concat(fields)) }
	module := w.document.ModuleID
	return w.cases("accept",
		change{name: "tag-18", draft: func(d *Draft) { d.Before = []byte{0xd2} }},
		change{name: "indefinite-payload-map", draft: func(d *Draft) { d.Payload = indefinitePairs }},
		change{name: "indefinite-pcr-map", draft: set("pcrs", Indefinite(Map, pcrItem(0), pcrItem(1), pcrItem(2)))},
		change{name: "indefinite-bundle", draft: func(d *Draft) {
			d.Set("cabundle", Indefinite(Array, bundleItems(w.document.CABundle)...))
		}},
		change{name: "indefinite-byte-strings", draft: func(d *Draft) {
			d.Set("nonce", Chunks(Bytes, w.document.Nonce))
			d.Set("certificate", Chunks(Bytes, w.document.Certificate))
		}},
		change{name: "indefinite-text-strings", draft: set("module_id", Chunks(Text, []byte(module)))},
		change{name: "indefinite-text-key", draft: func(d *Draft) {
			d.Drop("nonce")
			d.Add(Chunks(Text, []byte("nonce")), BytesItem(w.document.Nonce))
		}},
		change{name: "indefinite-cose", draft: func(d *Draft) { d.Wrap = indefiniteCOSE }},
		change{name: "indefinite-headers", draft: func(d *Draft) {
			d.Protected = Indefinite(Map, []byte{0x01, 0x38, 0x22})
			d.Unprotected = Indefinite(Map)
		}},
		change{name: "long-heads", draft: func(d *Draft) {
			d.Set("nonce", append(LongHead(Bytes, 32), w.document.Nonce...))
			d.Set("digest", append(LongHead(Text, 6), "SHA384"...))
		}},
		change{name: "fields-in-another-order", draft: func(d *Draft) { slices.Reverse(d.Fields) }},
		change{name: "unknown-field", draft: set("future", BytesItem([]byte("anything")))},
		change{name: "unknown-field-nested", draft: set("future", Items(Map, 1, TextItem("list"), Items(Array, 2, []byte{0x01}, Indefinite(Array))))},
		change{name: "unknown-field-nested-7", draft: set("future", nested(0x81, 7))},
		change{name: "unknown-field-of-64-items", draft: set("future", Items(Array, 64, bytes.Repeat([]byte{0}, 64)))},
		change{name: "unknown-field-of-64-pairs", draft: set("future", pairs(64))},
		change{name: "payload-of-64-fields", draft: moreFields(64 - 9)},
		change{name: "size-16-kib", draft: func(d *Draft) { pad(d, 16<<10) }},
		change{name: "header-key-id", draft: func(d *Draft) {
			d.Unprotected = Items(Map, 1, []byte{0x04}, BytesItem([]byte("key")))
		}},
		change{name: "header-content-type", draft: func(d *Draft) {
			d.Protected = Items(Map, 2, []byte{0x01, 0x38, 0x22}, []byte{0x03, 0x00})
		}},
	)
}

// pad gives the document exactly n bytes, by a header parameter that is ignored.
func pad(d *Draft, n int) {
	keyID := func(size int) []byte { return Items(Map, 1, []byte{0x04}, BytesItem(make([]byte, size))) }
	d.Unprotected = keyID(1000)
	d.Unprotected = keyID(1000 + n - len(d.Bytes()))
}

// nested returns a zero within n items that begin with head.
func nested(head byte, n int) []byte { return append(bytes.Repeat([]byte{head}, n), 0) }

// pairs returns a map of n pairs.
func pairs(n int) []byte {
	b := Head(Map, uint64(n))
	for i := range n {
		b = append(append(b, Head(Unsigned, uint64(i))...), 0)
	}
	return b
}

// moreFields adds n unknown fields.
func moreFields(n int) func(*Draft) {
	return func(d *Draft) {
		for i := range n {
			d.Set("future "+digits(i), []byte{0})
		}
	}
}

func indefiniteCOSE(protected, unprotected, payload, sig []byte) []byte {
	return Indefinite(Array, Chunks(Bytes, protected), unprotected, Chunks(Bytes, payload), Chunks(Bytes, sig))
}

// soundPolicies are acceptable by what the policy says.
func (w *workshop) soundPolicies() []Case {
	later := func(d time.Duration) func(time.Time) time.Time {
		return func(time.Time) time.Time { return w.document.Timestamp.Add(d) }
	}
	zero := func(d *nitro.Document) { d.PCRs[0], d.PCRs[1], d.PCRs[2] = nitro.PCR{}, nitro.PCR{}, nitro.PCR{} }
	return w.cases("accept",
		change{name: "pcr-second-of-two", policy: func(p *policy.Policy) { p.PCRs[0] = []nitro.PCR{PCR(9), PCR(0)} }},
		change{name: "pcr-3-4-8-too", policy: func(p *policy.Policy) {
			p.PCRs[3], p.PCRs[4], p.PCRs[8] = []nitro.PCR{PCR(3)}, []nitro.PCR{PCR(4)}, []nitro.PCR{PCR(8)}
		}},
		change{name: "pcr-8-alone", policy: func(p *policy.Policy) { p.PCRs = map[int][]nitro.PCR{8: {PCR(8)}} }},
		change{name: "pcrs-not-checked", policy: func(p *policy.Policy) { p.PCRs, p.PCRsNotChecked = nil, true }},
		change{name: "second-root-of-two", policy: func(p *policy.Policy) { p.Roots = append([][]byte{{1}}, p.Roots...) }},
		change{name: "clock-5-minutes-ahead", at: later(-5 * time.Minute)},
		change{name: "leaf-just-made-clock-ahead", plan: func(p *Plan) { p.Leaf().Template.NotBefore = w.document.Timestamp },
			at: later(-4 * time.Minute)},
		change{name: "one-hour-old", at: later(time.Hour)},
		change{name: "two-hours-old-allowed", at: later(2 * time.Hour), policy: func(p *policy.Policy) { p.MaxAge = 2 * time.Hour }},
		change{name: "archived-years-ago", at: later(3 * 365 * 24 * time.Hour), policy: func(p *policy.Policy) { p.TimeFromDocument = true }},
		change{name: "archived-no-time", at: func(time.Time) time.Time { return time.Time{} }, policy: func(p *policy.Policy) { p.TimeFromDocument = true }},
		change{name: "archived-short-nonce", draft: set("nonce", BytesItem(fill("n", 12))), policy: func(p *policy.Policy) {
			p.Nonce, p.TimeFromDocument = fill("n", 12), true
		}},
		change{name: "debug-allowed-by-name", document: zero, policy: func(p *policy.Policy) {
			p.AllowDebug = true
			p.PCRs = map[int][]nitro.PCR{0: {{}}, 1: {{}}, 2: {{}}}
		}},
		change{name: "fields-required-and-there", policy: func(p *policy.Policy) { p.RequirePublicKey, p.RequireUserData = true, true }},
	)
}
