package testkit

import (
	"bytes"
	"slices"
	"strings"
)

// malformedPayload are broken in the payload's structure.
func (w *workshop) malformedPayload() []Case {
	payload := func(f func(fields []Field) []byte) func(*Draft) { return func(d *Draft) { d.Payload = f } }
	nonce := BytesItem(w.document.Nonce)
	cases := w.cases("malformed",
		change{name: "payload-empty", draft: payload(func([]Field) []byte { return nil })},
		change{name: "payload-array", draft: payload(func(f []Field) []byte { return Items(Array, 2*len(f), concat(f)) })},
		change{name: "payload-trailing-byte", draft: payload(func(f []Field) []byte { return Items(Map, len(f), concat(f), []byte{0}) })},
		change{name: "payload-tagged", draft: payload(func(f []Field) []byte { return slices.Concat(Head(Tag, 24), Items(Map, len(f), concat(f))) })},
		change{name: "payload-without-break", draft: payload(func(f []Field) []byte { return append([]byte{0xbf}, concat(f)...) })},
		change{name: "payload-odd-indefinite", draft: payload(func(f []Field) []byte { return Indefinite(Map, concat(f), TextItem("odd")) })},
		change{name: "duplicate-nonce", draft: func(d *Draft) { d.Add(TextItem("nonce"), nonce) }},
		change{name: "duplicate-nonce-indefinite", draft: func(d *Draft) {
			d.Add(TextItem("nonce"), nonce)
			d.Payload = func(f []Field) []byte { return Indefinite(Map, concat(f)) }
		}},
		change{name: "duplicate-key-in-chunks", draft: func(d *Draft) { d.Add(Chunks(Text, []byte("pcrs")), pcrs()) }},
		change{name: "duplicate-unknown-field", draft: func(d *Draft) {
			d.Add(TextItem("future"), []byte{0})
			d.Add(TextItem("future"), []byte{0})
		}},
		change{name: "key-integer", draft: func(d *Draft) { d.Add([]byte{0x01}, nonce) }},
		change{name: "key-bytes", draft: func(d *Draft) { d.Add(BytesItem([]byte("nonce")), nonce) }},
		change{name: "key-null", draft: func(d *Draft) { d.Add([]byte{Null}, nonce) }},
		change{name: "key-array", draft: func(d *Draft) { d.Add([]byte{0x80}, nonce) }},
		change{name: "key-invalid-utf8", draft: func(d *Draft) { d.Add(TextItem("\xff"), nonce) }},
	)
	for _, name := range []string{"module_id", "digest", "timestamp", "pcrs", "certificate", "cabundle"} {
		cases = append(cases, w.cases("malformed",
			change{name: "without-" + name, draft: drop(name)},
			change{name: "null-" + name, draft: set(name, []byte{Null})},
			change{name: "tagged-" + name, draft: func(d *Draft) {
				for i, f := range d.Fields {
					if bytes.Equal(f.Key, TextItem(name)) {
						d.Fields[i].Value = append(Head(Tag, 1000), f.Value...)
					}
				}
			}},
			change{name: "capital-" + name, draft: func(d *Draft) {
				for i, f := range d.Fields {
					if bytes.Equal(f.Key, TextItem(name)) {
						d.Fields[i].Key = TextItem(strings.ToUpper(name))
					}
				}
			}})...)
	}
	return cases
}

// malformedFields hold one field that is out of its type or limits.
func (w *workshop) malformedFields() []Case {
	cert := BytesItem(w.document.Certificate)
	nine := slices.Concat(bundleItems(w.document.CABundle), [][]byte{cert, cert, cert, cert, cert})
	cases := w.cases("malformed",
		change{name: "module-id-empty", draft: set("module_id", TextItem(""))},
		change{name: "module-id-257", draft: set("module_id", TextItem(string(bytes.Repeat([]byte{'i'}, 257))))},
		change{name: "module-id-bytes", draft: set("module_id", BytesItem([]byte("i-0")))},
		change{name: "module-id-invalid-utf8", draft: set("module_id", TextItem("i-\xff"))},
		change{name: "digest-sha256", draft: set("digest", TextItem("SHA256"))},
		change{name: "digest-sha512", draft: set("digest", TextItem("SHA512"))},
		change{name: "digest-lower-case", draft: set("digest", TextItem("sha384"))},
		change{name: "timestamp-zero", draft: set("timestamp", []byte{0})},
		change{name: "timestamp-negative", draft: set("timestamp", Head(Negative, 1000))},
		change{name: "timestamp-float", draft: set("timestamp", []byte{0xfb, 0x42, 0x78, 0, 0, 0, 0, 0, 0})},
		change{name: "timestamp-text", draft: set("timestamp", TextItem("2026-03-01T12:00:00Z"))},
		change{name: "timestamp-bignum", draft: set("timestamp", append([]byte{0xc2}, BytesItem([]byte{1, 0x9c, 0, 0, 0, 0})...))},
		change{name: "timestamp-year-10000", draft: set("timestamp", Head(Unsigned, 253402300800000))},
		change{name: "timestamp-2-64", draft: set("timestamp", LongHead(Unsigned, 1<<64-1))},
		change{name: "certificate-empty", draft: set("certificate", BytesItem(nil))},
		change{name: "certificate-text", draft: set("certificate", TextItem("certificate"))},
		change{name: "certificate-1025", draft: set("certificate", BytesItem(make([]byte, 1025)))},
		change{name: "bundle-empty", draft: set("cabundle", []byte{0x80})},
		change{name: "bundle-empty-indefinite", draft: set("cabundle", Indefinite(Array))},
		change{name: "bundle-of-9", draft: set("cabundle", Items(Array, 9, nine...))},
		change{name: "bundle-not-array", draft: set("cabundle", cert)},
		change{name: "bundle-of-text", draft: set("cabundle", Items(Array, 1, TextItem("root")))},
		change{name: "bundle-with-empty", draft: set("cabundle", Items(Array, 2, BytesItem(w.authority.Root), BytesItem(nil)))},
		change{name: "bundle-with-1025", draft: set("cabundle", Items(Array, 2, BytesItem(w.authority.Root), BytesItem(make([]byte, 1025))))},
	)
	for _, name := range []string{"public_key", "user_data", "nonce"} {
		cases = append(cases, w.cases("malformed",
			change{name: name + "-1025", draft: set(name, BytesItem(make([]byte, 1025)))},
			change{name: name + "-text", draft: set(name, TextItem("text"))},
			change{name: name + "-array", draft: set(name, Items(Array, 2, []byte{1, 2}))},
			change{name: name + "-undefined", draft: set(name, []byte{Undefined})},
			change{name: name + "-false", draft: set(name, []byte{0xf4})})...)
	}
	return cases
}

// malformedPCRs hold PCRs that no NSM has.
func (w *workshop) malformedPCRs() []Case {
	pair := func(key, value []byte) []byte { return slices.Concat(key, value) }
	withPCR := func(more []byte) func(*Draft) {
		return set("pcrs", Items(Map, 4, pcrItem(0), pcrItem(1), pcrItem(2), more))
	}
	value := BytesItem(make([]byte, 48))
	cases := w.cases("malformed",
		change{name: "pcrs-empty", draft: set("pcrs", []byte{0xa0})},
		change{name: "pcrs-array", draft: set("pcrs", Items(Array, 1, value))},
		change{name: "pcr-index-32", draft: withPCR(pair([]byte{0x18, 32}, value))},
		change{name: "pcr-index-2-64", draft: withPCR(pair(LongHead(Unsigned, 1<<64-1), value))},
		change{name: "pcr-index-negative", draft: withPCR(pair(Head(Negative, 0), value))},
		change{name: "pcr-index-text", draft: withPCR(pair(TextItem("3"), value))},
		change{name: "pcr-index-null", draft: withPCR(pair([]byte{Null}, value))},
		change{name: "pcr-index-float", draft: withPCR(pair([]byte{0xf9, 0x42, 0x00}, value))},
		change{name: "pcr-index-twice", draft: withPCR(pcrItem(0))},
		change{name: "pcr-index-twice-long-form", draft: withPCR(pair(LongHead(Unsigned, 0), value))},
		change{name: "pcr-null", draft: withPCR([]byte{0x03, Null})},
		change{name: "pcr-text", draft: withPCR(pair([]byte{0x03}, TextItem(string(make([]byte, 48)))))},
		change{name: "pcr-array-of-numbers", draft: withPCR(pair([]byte{0x03}, Items(Array, 48, make([]byte, 48))))},
	)
	for _, n := range []int{0, 32, 47, 49, 64} {
		cases = append(cases, w.make("malformed", change{name: "pcr-of-" + digits(n) + "-bytes",
			draft: withPCR(pair([]byte{0x03}, BytesItem(make([]byte, n))))}))
	}
	return cases
}

func digits(n int) string { return string([]byte{'0' + byte(n/10), '0' + byte(n%10)}) }
