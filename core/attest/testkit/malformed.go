package testkit

import (
	"bytes"
	"math"
	"slices"
)

// malformedCOSE are broken around the payload.
func (w *workshop) malformedCOSE() []Case {
	wrap := func(f func(protected, unprotected, payload, sig []byte) []byte) func(*Draft) {
		return func(d *Draft) { d.Wrap = f }
	}
	before := func(b ...byte) func(*Draft) { return func(d *Draft) { d.Before = b } }
	cut := func(keep float64) []byte {
		raw := w.authority.Sign(w.document)
		return raw[:int(float64(len(raw))*keep)]
	}
	cases := w.cases("malformed",
		change{name: "trailing-byte", draft: func(d *Draft) { d.After = []byte{0} }},
		change{name: "trailing-null", draft: func(d *Draft) { d.After = []byte{Null} }},
		change{name: "trailing-document", draft: func(d *Draft) { d.After = w.authority.Sign(w.document) }},
		change{name: "tag-17", draft: before(0xd1)},
		change{name: "tag-18-twice", draft: before(0xd2, 0xd2)},
		change{name: "tag-18-long-form", draft: before(0xd8, 0x12)},
		change{name: "tag-self-described", draft: before(0xd9, 0xd9, 0xf7)},
		change{name: "cose-of-3-parts", draft: wrap(func(p, u, pl, s []byte) []byte {
			return Items(Array, 3, BytesItem(p), u, BytesItem(pl))
		})},
		change{name: "cose-of-5-parts", draft: wrap(func(p, u, pl, s []byte) []byte {
			return Items(Array, 5, BytesItem(p), u, BytesItem(pl), BytesItem(s), BytesItem(s))
		})},
		change{name: "cose-map", draft: wrap(func(p, u, pl, s []byte) []byte {
			return Items(Map, 2, BytesItem(p), u, BytesItem(pl), BytesItem(s))
		})},
		change{name: "payload-detached", draft: wrap(func(p, u, pl, s []byte) []byte {
			return Items(Array, 4, BytesItem(p), u, []byte{Null}, BytesItem(s))
		})},
		change{name: "payload-not-wrapped", draft: wrap(func(p, u, pl, s []byte) []byte {
			return Items(Array, 4, BytesItem(p), u, pl, BytesItem(s))
		})},
		change{name: "protected-not-wrapped", draft: wrap(func(p, u, pl, s []byte) []byte {
			return Items(Array, 4, p, u, BytesItem(pl), BytesItem(s))
		})},
	)
	for name, raw := range map[string][]byte{"empty": {}, "one-byte": {0x84}, "tag-alone": {0xd2}, "text": []byte("attestation"),
		"cut-at-half": cut(0.5), "cut-last-byte": cut(0.9999), "reserved-head": {0x9c}, "break-alone": {Break}} {
		cases = append(cases, w.raw("malformed", name, raw))
	}
	slices.SortStableFunc(cases, func(a, b Case) int { return bytes.Compare([]byte(a.Name), []byte(b.Name)) })
	return cases
}

// malformedSignatures are of another type or length than ES384's.
func (w *workshop) malformedSignatures() []Case {
	sig := func(f func([]byte) []byte) func(*Draft) { return func(d *Draft) { d.Signature = f } }
	return w.cases("malformed",
		change{name: "signature-text", draft: func(d *Draft) {
			d.Wrap = func(p, u, pl, s []byte) []byte {
				return Items(Array, 4, BytesItem(p), u, BytesItem(pl), append(Head(Text, 96), bytes.Repeat([]byte{'a'}, 96)...))
			}
		}},
		change{name: "signature-empty", draft: sig(func([]byte) []byte { return nil })},
		change{name: "signature-95-bytes", draft: sig(func(s []byte) []byte { return s[:95] })},
		change{name: "signature-97-bytes", draft: sig(func(s []byte) []byte { return append(s, 0) })},
		change{name: "signature-der", draft: sig(func(s []byte) []byte {
			return slices.Concat([]byte{0x30, 0x66, 0x02, 0x31, 0}, s[:48], []byte{0x02, 0x31, 0}, s[48:])
		})},
	)
}

func (w *workshop) raw(want, name string, document []byte) Case {
	return Case{Name: name, Document: document, At: w.at, Policy: w.policy, Want: want}
}

func (w *workshop) malformedHeaders() []Case {
	alg := []byte{0x01, 0x38, 0x22}
	protected := func(b []byte) func(*Draft) { return func(d *Draft) { d.Protected = b } }
	unprotected := func(b []byte) func(*Draft) { return func(d *Draft) { d.Unprotected = b } }
	return w.cases("malformed",
		change{name: "alg-es256", draft: protected([]byte{0xa1, 0x01, 0x26})},
		change{name: "alg-es512", draft: protected([]byte{0xa1, 0x01, 0x38, 0x23})},
		change{name: "alg-eddsa", draft: protected([]byte{0xa1, 0x01, 0x27})},
		change{name: "alg-hmac", draft: protected([]byte{0xa1, 0x01, 0x05})},
		change{name: "alg-none", draft: protected([]byte{0xa0})},
		change{name: "alg-null", draft: protected([]byte{0xa1, 0x01, Null})},
		change{name: "alg-text", draft: protected(Items(Map, 1, []byte{0x01}, TextItem("ES384")))},
		change{name: "alg-under-text-label", draft: protected(Items(Map, 1, TextItem("alg"), []byte{0x38, 0x22}))},
		change{name: "alg-twice", draft: protected(Items(Map, 2, alg, alg))},
		change{name: "alg-twice-long-form", draft: protected(Items(Map, 2, alg, LongHead(Unsigned, 1), []byte{0x38, 0x22}))},
		change{name: "alg-unprotected-alone", draft: func(d *Draft) { d.Protected, d.Unprotected = []byte{0xa0}, Items(Map, 1, alg) }},
		change{name: "alg-unprotected-too", draft: unprotected(Items(Map, 1, alg))},
		change{name: "alg-unprotected-other", draft: unprotected([]byte{0xa1, 0x01, 0x26})},
		change{name: "protected-empty-string", draft: protected(nil)},
		change{name: "protected-array", draft: protected(Items(Array, 1, alg[:1]))},
		change{name: "protected-trailing-byte", draft: protected([]byte{0xa1, 0x01, 0x38, 0x22, 0})},
		change{name: "protected-byte-string-label", draft: protected(Items(Map, 2, alg, BytesItem([]byte{1}), []byte{0}))},
		change{name: "protected-null-label", draft: protected(Items(Map, 2, alg, []byte{Null, 0}))},
		change{name: "protected-float-label", draft: protected(Items(Map, 2, alg, []byte{0xf9, 0x44, 0x00, 0}))},
		change{name: "unprotected-null-label", draft: unprotected(Items(Map, 1, []byte{Null, 0}))},
		change{name: "crit", draft: protected(Items(Map, 2, alg, []byte{0x02}, Items(Array, 1, []byte{0x01})))},
		change{name: "crit-unknown-label", draft: protected(Items(Map, 3, alg, []byte{0x02}, Items(Array, 1, []byte{0x18, 0x63}), []byte{0x18, 0x63, 0x00}))},
		change{name: "crit-unprotected", draft: unprotected(Items(Map, 1, []byte{0x02}, Items(Array, 1, []byte{0x01})))},
		change{name: "label-in-both-headers", draft: func(d *Draft) {
			d.Protected = Items(Map, 2, alg, []byte{0x03, 0x00})
			d.Unprotected = []byte{0xa1, 0x03, 0x00}
		}},
		change{name: "unprotected-array", draft: unprotected([]byte{0x80})},
		change{name: "unprotected-null", draft: unprotected([]byte{Null})},
		change{name: "unprotected-duplicate", draft: unprotected([]byte{0xa2, 0x04, 0x40, 0x04, 0x40})},
	)
}

// bombs claim or hold more than a decoder should follow.
func (w *workshop) bombs() []Case {
	claims := func(head []byte) []byte { return append(head, 0) }
	cases := w.cases("malformed",
		change{name: "nested-arrays-in-field", draft: set("future", nested(0x81, 4000))},
		change{name: "nested-arrays-8-in-field", draft: set("future", nested(0x81, 8))},
		change{name: "unknown-field-tagged", draft: set("future", append(Head(Tag, 1000), 0x01))},
		change{name: "unknown-field-with-tag-inside", draft: set("future", Items(Array, 1, append(Head(Tag, 1000), 0x01)))},
		change{name: "header-tagged", draft: func(d *Draft) { d.Unprotected = Items(Map, 1, []byte{0x04}, append(Head(Tag, 1000), 0x01)) }},
		change{name: "nested-tags-in-field", draft: set("future", nested(0xc1, 4000))},
		change{name: "field-claims-all-memory", draft: set("user_data", claims(LongHead(Bytes, math.MaxUint64)))},
		change{name: "field-claims-2-63", draft: set("user_data", claims(LongHead(Bytes, 1<<63)))},
		change{name: "bundle-claims-all-memory", draft: set("cabundle", claims(LongHead(Array, math.MaxUint64)))},
		change{name: "bundle-claims-2-32", draft: set("cabundle", claims(LongHead(Array, 1<<32)))},
		change{name: "pcrs-claim-all-memory", draft: set("pcrs", claims(LongHead(Map, math.MaxUint64)))},
		change{name: "payload-of-65-fields", draft: moreFields(65 - 9)},
		change{name: "field-of-65-items", draft: set("future", Items(Array, 65, bytes.Repeat([]byte{0}, 65)))},
		change{name: "field-of-65-items-indefinite", draft: set("future", Indefinite(Array, bytes.Repeat([]byte{0}, 65)))},
		change{name: "field-of-65-pairs", draft: set("future", pairs(65))},
		change{name: "size-over-16-kib", draft: func(d *Draft) { pad(d, 16<<10+1) }},
		change{name: "size-over-16-kib-by-tag", draft: func(d *Draft) { pad(d, 16<<10); d.Before = []byte{0xd2} }},
		change{name: "over-16-kib", draft: set("future", BytesItem(fill("x", 16<<10)))},
		change{name: "over-16-kib-by-trailing", draft: func(d *Draft) { d.After = make([]byte, 16<<10) }},
	)
	return append(cases,
		w.raw("malformed", "nested-arrays", nested(0x84, 10000)),
		w.raw("malformed", "nested-indefinite-arrays", bytes.Repeat([]byte{0x9f}, 10000)),
		w.raw("malformed", "nested-tags", bytes.Repeat([]byte{0xd2}, 10000)),
		w.raw("malformed", "cose-claims-all-memory", claims(LongHead(Array, math.MaxUint64))),
		w.raw("malformed", "string-claims-all-memory", slices.Concat([]byte{0x84}, LongHead(Bytes, math.MaxUint64))),
		w.raw("malformed", "text-claims-2-63", slices.Concat([]byte{0x84}, LongHead(Text, 1<<63))),
	)
}
