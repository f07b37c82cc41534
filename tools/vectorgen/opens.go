package main

import (
	"bytes"
	"crypto/ed25519"
	"crypto/sha256"
	"encoding/binary"
	"slices"
	"strings"

	"github.com/cape-functions/cape/tools/vectorgen/vectors"
)

// transcript is SHA-256(label ‖ u32be(len hello) ‖ hello ‖ u32be(len attest) ‖ attest).
func transcript(hello, attest []byte) []byte {
	b := []byte("cape v2 transcript\x00")
	for _, m := range [][]byte{hello, attest} {
		b = append(binary.BigEndian.AppendUint32(b, uint32(len(m))), m...)
	}
	sum := sha256.Sum256(b)
	return sum[:]
}

func openObject() object {
	return object{{"secret", hashBytes("secret")}, {"token", nil}, {"auth", nil}, {"grant", nil},
		{"expect", object{{"fn", nil}, {"acct", nil}, {"seq", nil}}}}
}

func authObject(key ed25519.PrivateKey, label string, transcript []byte) object {
	return object{{"key", publicOf(key)}, {"sig", signManifest(key, label, transcript)}}
}

// opening is an open frame before it is sealed.
type opening struct {
	pair          kemPair
	hello, attest []byte
	label         string
	plaintext     []byte
}

func (o opening) input(s *set) vectors.OpenInput {
	info := append([]byte(o.label), transcript(o.hello, o.attest)...)
	return vectors.OpenInput{KEM: o.pair.id, Private: o.pair.private, Hello: o.hello, Attest: o.attest, Frame: o.pair.seal(s, info, o.plaintext)}
}

const labelAuthority = "cape v2 authority\x00"

func opens(s *set, _ *keyring) {
	alice := accountKey("alice")
	base := opening{pair: x25519Pair(s, "a"), hello: []byte("hello"), attest: []byte("attest"), label: "cape v2 open"}
	t := transcript(base.hello, base.attest)
	minimal := vectors.OpenOutput{Transcript: t, Secret: hashBytes("secret"), Acct: []byte{}, Grant: []byte{}, ExpectFn: []byte{}, ExpectAcct: []byte{}}
	with := func(o object) opening {
		out := base
		out.plaintext = o.encode()
		return out
	}
	full := openObject().with("token", "a.b.c").with("auth", authObject(alice, labelAuthority, t)).with("grant", []byte("grant")).
		with("expect", object{{"fn", hashBytes("fn")}, {"acct", acctOf(alice)}, {"seq", 7}})
	seven := 7
	whole := minimal
	whole.Token, whole.Acct, whole.Grant, whole.ExpectFn, whole.ExpectAcct, whole.ExpectSeq = "a.b.c", acctOf(alice), []byte("grant"), hashBytes("fn"), acctOf(alice), &seven

	s.ok("x25519-minimal", "Neither token nor authority.", with(openObject()).input(s), minimal)
	s.ok("x25519-whole", "Token, authority, grant, and expectations.", with(full).input(s), whole)
	xwing := with(full)
	xwing.pair = xwingPair(s, "a")
	s.ok("x-wing-whole", "The same with X-Wing.", xwing.input(s), whole)
	openFailures(s, with(full), xwing)
	openMalformed(s, with, full)
	openAuthorities(s, with, t)
}

func openFailures(s *set, base, xwing opening) {
	fail := func(name, about string, in vectors.OpenInput) { s.fail(name, about, in, "open") }
	changed := func(o opening, at int) vectors.OpenInput {
		in := o.input(s)
		in.Frame = bytes.Clone(in.Frame)
		in.Frame[(at+len(in.Frame))%len(in.Frame)] ^= 1
		return in
	}
	in := base.input(s)
	in.Frame = in.Frame[:len(in.Frame)-1]
	fail("cut", "The last byte is missing.", in)
	in = base.input(s)
	in.Frame = append(bytes.Clone(in.Frame), 0)
	fail("longer", "A byte follows.", in)
	in = base.input(s)
	in.Frame = []byte{}
	fail("nothing", "An empty frame.", in)
	in = base.input(s)
	in.Frame = in.Frame[:32]
	fail("key-alone", "No ciphertext after the encapsulated key.", in)
	fail("tag-changed", "A bit of the tag changed.", changed(base, -1))
	fail("key-changed", "A bit of the encapsulated key changed.", changed(base, 3))
	fail("x-wing-pq-changed", "A bit of the ML-KEM ciphertext changed.", changed(xwing, 7))
	fail("x-wing-x25519-changed", "A bit of the X25519 part changed.", changed(xwing, 1088+3))
	in = base.input(s)
	in.Hello = []byte("hello!")
	fail("hello-rewritten", "The client sent another hello: the transcripts differ.", in)
	in = base.input(s)
	in.Attest = []byte("attest!")
	fail("attest-rewritten", "The client received another attest.", in)
	in = base.input(s)
	in.Hello, in.Attest = []byte("helloa"), []byte("ttest")
	fail("moved-boundary", "The same bytes in all, parted elsewhere.", in)
	in = base.input(s)
	in.Private = x25519Pair(s, "b").private
	fail("another-key", "Sealed to another session's key.", in)
	other := base
	other.label = "cape v1 open"
	fail("other-info", "Sealed under another label.", other.input(s))
}

func openMalformed(s *set, with func(object) opening, full object) {
	fail := func(name, about string, o opening) { s.fail(name, about, o.input(s), "malformed") }
	for how, raw := range full.spoilt() {
		o := with(full)
		o.plaintext = raw
		fail("message-"+how, "The message "+strings.ReplaceAll(how, "-", " ")+".", o)
	}
	expect := object{{"fn", nil}, {"acct", nil}, {"seq", nil}}
	fail("short-secret", "A secret of 31 bytes.", with(openObject().with("secret", bytesOf("secret", 31))))
	fail("empty-token", "A token of no bytes: null says none.", with(openObject().with("token", "")))
	fail("large-token", "A token of 8,193 bytes.", with(openObject().with("token", strings.Repeat("t", 8193))))
	fail("empty-grant", "A grant of no bytes: null says none.", with(openObject().with("grant", []byte{})))
	fail("large-grant", "A grant of 4,097 bytes.", with(openObject().with("grant", make([]byte, 4097))))
	fail("short-auth-key", "An authority with a key of 31 bytes.", with(openObject().with("auth", object{{"key", bytesOf("k", 31)}, {"sig", bytesOf("s", 64)}})))
	fail("short-auth-sig", "An authority with a signature of 63 bytes.", with(openObject().with("auth", object{{"key", bytesOf("k", 32)}, {"sig", bytesOf("s", 63)}})))
	fail("short-expect-fn", "An expected hash of 31 bytes.", with(openObject().with("expect", expect.with("fn", bytesOf("fn", 31)))))
	fail("short-expect-acct", "An expected account of no bytes.", with(openObject().with("expect", expect.with("acct", []byte{}))))
	fail("negative-expect-seq", "A negative number.", with(openObject().with("expect", expect.with("seq", -1))))
	fail("expect-with-more", "An unknown expectation: it must not be ignored.", with(openObject().with("expect", expect.with("name", "echo"))))
}

func openAuthorities(s *set, with func(object) opening, t []byte) {
	alice, bob := accountKey("alice"), accountKey("bob")
	fail := func(name, about string, auth object) {
		s.fail(name, about, with(openObject().with("auth", auth)).input(s), "authority")
	}
	fail("authority-of-another-session", "An authority that was recorded.", authObject(alice, labelAuthority, transcript([]byte("hello"), []byte("other"))))
	fail("authority-without-label", "Signed without the label.", authObject(alice, "", t))
	fail("authority-by-manifest-label", "Signed as manifests are.", authObject(alice, labelManifest, t))
	fail("authority-of-another-key", "Another account's key beside the signature.", authObject(alice, labelAuthority, t).with("key", publicOf(bob)))
	sig := slices.Clone(signManifest(alice, labelAuthority, t))
	sig[63] ^= 0x20
	fail("authority-changed", "A bit of the signature changed.", object{{"key", publicOf(alice)}, {"sig", sig}})
}
