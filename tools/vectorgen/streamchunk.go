package main

import (
	"bytes"
	"encoding/base64"
	"slices"
)

// v2Chunks are payloads that were cut, changed, or sealed in another way.
func v2Chunks(s *set, keys *keyring) {
	d := newDraft(s, keys.capeA, toFn())
	framed, key := d.seal()
	fail := func(name, about, want string, chunks ...[]byte) {
		s.fail(name, about, v2Input(slices.Concat([]byte(v2Prefix), framed, slices.Concat(chunks...))), want)
	}
	flip := func(b []byte, at int) []byte {
		c := bytes.Clone(b)
		c[at] ^= 1
		return c
	}
	whole, rest := bytesOf("plaintext", v2Chunk), []byte("the end")
	first, second := d.chunk(key, 0, false, whole), d.chunk(key, 1, true, rest)
	short := d.chunk(key, 0, true, rest)

	fail("no-chunk", "Nothing after the header.", "truncated")
	fail("tag-cut", "Less than a tag after the header.", "truncated", short[:15])
	fail("tag-alone", "No more than a tag, and not that of an empty chunk.", "damaged", short[:16])
	fail("cut-after-a-chunk", "The second of two chunks is missing.", "truncated", first)
	fail("cut-after-a-byte", "A byte of the second chunk is left.", "truncated", first, second[:1])
	fail("cut-after-a-tag", "No more than a tag of the second chunk is left.", "truncated", first, second[:16])
	fail("cut-in-a-chunk", "The last byte is missing.", "damaged", first, second[:len(second)-1])
	fail("cut-short", "The last byte of the only chunk is missing.", "damaged", short[:len(short)-1])
	fail("longer", "A byte follows.", "damaged", short, []byte{0})
	fail("last-twice", "The last chunk twice.", "damaged", short, short)
	fail("first-changed", "A bit of the first chunk changed.", "damaged", flip(first, 0), second)
	fail("second-changed", "A bit of the second chunk changed.", "damaged", first, flip(second, 0))
	fail("tag-changed", "A bit of the only tag changed.", "damaged", flip(short, len(short)-1))
	fail("first-missing", "The first of two chunks is missing.", "damaged", second)
	fail("swapped", "Two chunks changed places.", "damaged", d.chunk(key, 1, false, whole), first, d.chunk(key, 2, true, rest))
	fail("counter-repeated", "The second chunk is numbered as the first.", "damaged", first, d.chunk(key, 0, true, rest))
	fail("counter-skipped", "A number is left out.", "damaged", first, d.chunk(key, 2, true, rest))
	fail("counter-from-one", "The first chunk is numbered 1.", "damaged", d.chunk(key, 1, true, rest))
	fail("no-last-flag", "A short chunk that is not flagged as the last.", "truncated", d.chunk(key, 0, false, rest))
	fail("flag-too-early", "A chunk follows the one that is flagged as the last.", "damaged", d.chunk(key, 0, true, whole), second)
	fail("empty-last-chunk", "An empty chunk after a whole one.", "truncated", first, d.chunk(key, 1, true, nil))
	fail("short-chunk-first", "A first chunk that is not a whole one.", "damaged", d.chunk(key, 0, false, rest), d.chunk(key, 1, true, rest))
	long := d.chunk(key, 0, true, bytesOf("plaintext", v2Chunk+100))
	fail("chunk-too-long", "One chunk of more than there may be.", "damaged", long)
	_, otherKey := newDraft(s, keys.capeA, toName("other")).seal()
	fail("chunk-of-another", "The chunk of an envelope with another header.", "damaged", d.chunk(otherKey, 0, true, rest))
}

// v2TextForm is damage that only the text form can have.
func v2TextForm(s *set, keys *keyring) {
	data := newDraft(s, keys.capeA, toFn()).envelope([]byte("input"))
	for len(data[len(v2Prefix):])%3 == 0 {
		data = newDraft(s, keys.capeA, toFn()).envelope([]byte("inputs"))
	}
	good := v2AsText(data)
	fail := func(name, about string, text []byte, want string) { s.fail("text-"+name, about, v2Input(text), want) }
	insert := func(at int, more string) []byte { return slices.Insert(bytes.Clone(good), at, []byte(more)...) }
	end := len(good)
	fail("two-line-feeds", "Two line feeds at the end.", insert(end, "\n\n"), "format")
	fail("carriage-return", "A carriage return alone at the end.", insert(end, "\r"), "format")
	fail("line-feed-inside", "Wrapped lines.", insert(len(v2Text)+76, "\n"), "format")
	fail("space-in-front", "A space before the base64.", insert(len(v2Text), " "), "format")
	fail("not-padded", "Without its padding.", bytes.TrimRight(good, "="), "format")
	fail("after-padding", "More base64 after the padding.", insert(end, "AAAA"), "format")
	fail("padding-inside", "Padding in the middle.", insert(len(v2Text)+400, "AA=="), "format")
	fail("url-alphabet", "The URL alphabet of base64.",
		append([]byte(v2Text), base64.URLEncoding.EncodeToString(data[len(v2Prefix):])...), "format")
	fail("binary", "Binary after the prefix of the text form.", append([]byte(v2Text), data[len(v2Prefix):]...), "format")
	fail("in-binary", "Text after the prefix of the binary form.", append([]byte(v2Prefix), good[len(v2Text):]...), "format")
	fail("cut", "Cut after a group of four.", good[:end-8], "damaged")
	fail("prefix-alone", "Only the prefix.", good[:len(v2Text)], "truncated")
}
