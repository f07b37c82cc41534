package main

import (
	"bytes"
	"crypto/sha256"
	"encoding/binary"
	"slices"
)

// v2Headers are headers of the right content in a wrong encoding.
func v2Headers(s *set, keys *keyring) {
	bad := func(name, about string, header func(key, to, salt, wrapped []byte) []byte) {
		d := newDraft(s, keys.capeA, toFn())
		d.header = header
		s.fail(name, about, v2Input(d.envelope([]byte("input"))), "format")
	}
	bad("header-order", "Keys in another order.", func(key, to, salt, wrapped []byte) []byte {
		return cborMap("key", key, "to", to, "salt", salt, "wrapped", wrapped)
	})
	bad("header-unknown-key", "One key more.", func(key, to, salt, wrapped []byte) []byte {
		return cborMap("to", to, "key", key, "salt", salt, "extra", cborNull(), "wrapped", wrapped)
	})
	bad("header-twice-a-key", `"to" twice.`, func(key, to, salt, wrapped []byte) []byte {
		return cborMap("to", to, "to", to, "key", key, "salt", salt, "wrapped", wrapped)
	})
	bad("header-without-to", `No "to": null must be written.`, func(key, _, salt, wrapped []byte) []byte {
		return cborMap("key", key, "salt", salt, "wrapped", wrapped)
	})
	bad("header-without-salt", "No salt.", func(key, to, _, wrapped []byte) []byte {
		return cborMap("to", to, "key", key, "wrapped", wrapped)
	})
	bad("header-upper-case", "A key in another case.", func(key, to, salt, wrapped []byte) []byte {
		return cborMap("To", to, "key", key, "salt", salt, "wrapped", wrapped)
	})
	bad("header-indefinite", "A map of indefinite length.", func(key, to, salt, wrapped []byte) []byte {
		return append(append([]byte{0xbf}, goodHeader(key, to, salt, wrapped)[1:]...), 0xff)
	})
	bad("header-tagged", "A tag before the map.", func(key, to, salt, wrapped []byte) []byte {
		return append([]byte{0xc6}, goodHeader(key, to, salt, wrapped)...)
	})
	bad("header-long-length", "A length in more bytes than it takes.", func(key, to, salt, wrapped []byte) []byte {
		return cborMap("to", to, "key", append([]byte{0x59, 0}, key[1:]...), "salt", salt, "wrapped", wrapped)
	})
	bad("header-with-more", "A byte after the map.", func(key, to, salt, wrapped []byte) []byte {
		return append(goodHeader(key, to, salt, wrapped), 0)
	})
	bad("header-of-text", "Text where bytes are due.", func(key, to, _, wrapped []byte) []byte {
		return cborMap("to", to, "key", key, "salt", cborText("sixteen letters!"), "wrapped", wrapped)
	})
	bad("header-is-a-list", "A list.", func(key, to, salt, wrapped []byte) []byte {
		return append([]byte{0x84}, slices.Concat(to, key, salt, wrapped)...)
	})
	bad("header-empty", "No header.", func(_, _, _, _ []byte) []byte { return nil })
	bad("header-too-long", "A header of more than 1,024 bytes.", func(key, to, salt, wrapped []byte) []byte {
		return cborMap("to", to, "key", key, "pad", cborBytes(make([]byte, 512)), "salt", salt, "wrapped", wrapped)
	})
}

// v2Fields are headers with a field that is not what it must be.
func v2Fields(s *set, keys *keyring) {
	bad := func(name, about string, change func(*draft)) {
		d := newDraft(s, keys.capeA, toFn())
		change(d)
		s.fail(name, about, v2Input(d.envelope([]byte("input"))), "format")
	}
	to := func(name, about string, to []byte) {
		bad("to-"+name, about, func(d *draft) { d.to = to })
	}
	bad("key-short", "A key hash of 31 bytes.", func(d *draft) { d.key = cborBytes(make([]byte, 31)) })
	bad("key-null", "No key hash.", func(d *draft) { d.key = cborNull() })
	bad("salt-short", "A salt of 15 bytes.", func(d *draft) { d.salt = cborBytes(bytesOf("salt", 15)) })
	bad("salt-long", "A salt of 17 bytes.", func(d *draft) { d.salt = cborBytes(bytesOf("salt", 17)) })
	bad("wrapped-short", "A wrapped key of 511 bytes.", func(d *draft) {
		d.header = func(key, to, salt, wrapped []byte) []byte {
			return goodHeader(key, to, salt, cborBytes(wrapped[3:3+511]))
		}
	})
	bad("file-key-of-16", "A file key of 16 bytes.", func(d *draft) { d.fileKey = bytesOf("file key", 16) })

	to("empty", "A recipient that says nothing.", cborMap())
	to("false", "A recipient that is no map.", []byte{0xf4})
	to("undefined", "Undefined is not null.", []byte{0xf7})
	to("function-short", "A function's checksum of 31 bytes.", cborMap("fn", cborBytes(fnSum[:31])))
	to("function-empty", "A function's checksum of no bytes.", cborMap("fn", cborBytes(nil)))
	to("both", "A function and a name.", cborMap("fn", cborBytes(fnSum[:]), "acct", cborBytes(acctSum[:]), "name", cborText("f")))
	to("account-alone", "An account without a name.", cborMap("acct", cborBytes(acctSum[:])))
	to("name-alone", "A name without an account.", cborMap("name", cborText("f")))
	to("account-short", "An account of 31 bytes.", cborMap("acct", cborBytes(acctSum[:31]), "name", cborText("f")))
	to("account-null", "No account.", cborMap("acct", cborNull(), "name", cborText("f")))
	to("name-empty", "An empty name.", toName(""))
	to("name-with-slash", "A name that no function has.", toName("a/b"))
	to("name-too-long", "A name of 129 bytes.", toName(string(bytes.Repeat([]byte("n"), 129))))
	to("name-not-utf8", "A name that is not UTF-8.", toName("a\xff"))
	to("order", "Keys in another order.", cborMap("name", cborText("f"), "acct", cborBytes(acctSum[:])))
	to("version-zero", "Every version is said by no version.", toSince("f", 0))
	to("version-of-a-function", "A checksum and a version.", cborMap("fn", cborBytes(fnSum[:]), "seq", cborInt(1)))
	to("version-alone", "A version of nothing.", cborMap("seq", cborInt(1)))
	to("version-negative", "A version below zero.", cborMap("seq", []byte{0x20}, "acct", cborBytes(acctSum[:]), "name", cborText("f")))
	to("version-text", "A version that is no number.", cborMap("seq", cborText("1"), "acct", cborBytes(acctSum[:]), "name", cborText("f")))
	to("version-order", "The version behind what it comes before.", cborMap("acct", cborBytes(acctSum[:]), "name", cborText("f"), "seq", cborInt(1)))
	to("unknown-key", "One key more.", cborMap("fn", cborBytes(fnSum[:]), "x", cborNull()))
}

// v2Keys are envelopes whose keys were made in another way.
func v2Keys(s *set, keys *keyring) {
	bad := func(name, about, want string, change func(*draft)) {
		d := newDraft(s, keys.capeA, toFn())
		change(d)
		s.fail(name, about, v2Input(d.envelope([]byte("input"))), want)
	}
	bad("label-empty", "Wrapped without a label, as the old form does.", "damaged", func(d *draft) {
		d.label = func([]byte) []byte { return nil }
	})
	bad("label-alone", "Wrapped under a label that does not bind the header.", "damaged", func(d *draft) {
		d.label = func([]byte) []byte { return []byte(v2Wrap) }
	})
	bad("label-without-zero", "Wrapped under a label without its zero byte.", "damaged", func(d *draft) {
		d.label = func(sum []byte) []byte { return append([]byte("cape:v2"), sum...) }
	})
	bad("payload-label", "The payload key is made for another purpose.", "damaged", func(d *draft) { d.payload = "cape:v2 other\x00" })
	bad("wrong-hash", "Names the reader's second key, but is wrapped to the first.", "damaged", func(d *draft) {
		hash, err := keyHash(keys.capeB)
		s.check(err)
		d.key = cborBytes(hash)
	})
	bad("unknown-key", "Names a key that the reader does not hold.", "key", func(d *draft) {
		hash := sha256.Sum256([]byte("another"))
		d.key = cborBytes(hash[:])
	})
	// The recipient, replaced by whoever carries the envelope.
	redirect := func(name, about string, to []byte) {
		bad(name, about, "damaged", func(d *draft) {
			d.header = func(key, _, salt, wrapped []byte) []byte { return goodHeader(key, to, salt, wrapped) }
		})
	}
	redirect("redirected-to-name", "The recipient was replaced by another function.", toName("thief"))
	redirect("redirected-to-owner", "The recipient was taken out.", cborNull())
	bad("salt-replaced", "The salt was replaced.", "damaged", func(d *draft) {
		d.header = func(key, to, _, wrapped []byte) []byte {
			return goodHeader(key, to, cborBytes(bytesOf("another salt", 16)), wrapped)
		}
	})
}

// v2Framing is what surrounds the header.
func v2Framing(s *set, keys *keyring) {
	data := newDraft(s, keys.capeA, toFn()).envelope([]byte("input"))
	header := int(binary.BigEndian.Uint16(data[len(v2Prefix):]))
	at := len(v2Prefix) + 2 + header
	sized := func(n int) []byte {
		c := bytes.Clone(data)
		binary.BigEndian.PutUint16(c[len(v2Prefix):], uint16(n))
		return c
	}
	fail := func(name, about string, data []byte, want string) { s.fail(name, about, v2Input(data), want) }
	fail("nothing", "No bytes at all.", []byte{}, "format")
	fail("no-prefix", "Without its prefix.", data[len(v2Prefix):], "format")
	fail("prefix-cut", "Cut within the prefix.", data[:len(v2Prefix)-1], "format")
	fail("other-version", "The prefix of a version that is not known.", append([]byte("cape:v3:"), data[len(v2Prefix):]...), "format")
	fail("prefix-alone", "Only the prefix.", data[:len(v2Prefix)], "truncated")
	fail("length-cut", "Cut within the header's length.", data[:len(v2Prefix)+1], "truncated")
	fail("header-cut", "Cut within the header.", data[:at-1], "truncated")
	fail("length-short", "A header's length that is one too small.", sized(header-1), "format")
	fail("length-long", "A header's length that is one too large.", sized(header+1), "format")
	fail("length-largest", "A header's length above the limit.", sized(0xffff), "format")
}
