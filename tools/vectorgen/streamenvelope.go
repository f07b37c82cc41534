package main

import (
	"bytes"
	"crypto/hkdf"
	"crypto/rsa"
	"crypto/sha256"
	"encoding/binary"
	"slices"

	"github.com/cape-functions/cape/tools/vectorgen/vectors"
)

const (
	v2Prefix  = "cape:v2:"
	v2Text    = "cape:v2,"
	v2Chunk   = 64 << 10
	v2Sealed  = v2Chunk + 16
	v2Wrap    = "cape:v2\x00"
	v2Payload = "cape:v2 payload\x00"
)

// draft is an envelope in the making: every part can be made wrongly.
type draft struct {
	s       *set
	rsa     *rsa.PrivateKey
	key     []byte // CBOR, as the fields below
	to      []byte
	salt    []byte
	fileKey []byte

	label   func(sum []byte) []byte                    // OAEP label
	header  func(key, to, salt, wrapped []byte) []byte // header bytes
	payload string                                     // begin of the HKDF info
}

func newDraft(s *set, key *rsa.PrivateKey, to []byte) *draft {
	hash, err := keyHash(key)
	s.check(err)
	return &draft{
		s: s, rsa: key, key: cborBytes(hash), to: to, salt: cborBytes(bytesOf("salt", 16)), fileKey: bytesOf("file key", 32),
		label:   func(sum []byte) []byte { return append([]byte(v2Wrap), sum...) },
		header:  goodHeader,
		payload: v2Payload,
	}
}

// goodHeader is the deterministic order: shorter keys first, then by bytes.
func goodHeader(key, to, salt, wrapped []byte) []byte {
	return cborMap("to", to, "key", key, "salt", salt, "wrapped", wrapped)
}

// seal returns u16be(len) ‖ header and the payload key.
func (d *draft) seal() (framed, payloadKey []byte) {
	without := cborMap("to", d.to, "key", d.key, "salt", d.salt)
	sum := sha256.Sum256(without)
	wrapped := wrap(d.s, d.rsa, d.fileKey, d.label(sum[:]))
	header := d.header(d.key, d.to, d.salt, cborBytes(wrapped))
	return frame(header), d.payloadKey(header)
}

func (d *draft) payloadKey(header []byte) []byte {
	sum := sha256.Sum256(header)
	salt := d.salt[1:] // after the one byte of CBOR
	key, err := hkdf.Key(sha256.New, d.fileKey, salt, d.payload+string(sum[:]), 32)
	d.s.check(err)
	return key
}

func frame(header []byte) []byte {
	return append(binary.BigEndian.AppendUint16(nil, uint16(len(header))), header...)
}

// envelope is a whole one in the binary form.
func (d *draft) envelope(plaintext []byte) []byte {
	framed, key := d.seal()
	return slices.Concat([]byte(v2Prefix), framed, slices.Concat(d.chunks(key, plaintext)...))
}

// chunks seals plaintext in order, the last one flagged.
func (d *draft) chunks(key, plaintext []byte) [][]byte {
	parts := slices.Collect(slices.Chunk(plaintext, v2Chunk))
	if len(parts) == 0 {
		parts = [][]byte{nil}
	}
	out := make([][]byte, len(parts))
	for i, part := range parts {
		out[i] = d.chunk(key, uint64(i), i == len(parts)-1, part)
	}
	return out
}

func (d *draft) chunk(key []byte, counter uint64, last bool, plaintext []byte) []byte {
	nonce := make([]byte, 12)
	binary.BigEndian.PutUint64(nonce[3:], counter)
	if last {
		nonce[11] = 1
	}
	return gcmSeal(d.s, key, nonce, plaintext)
}

// Recipients, as CBOR and as scenarios show them.
var (
	fnSum   = sha256.Sum256([]byte("function"))
	acctSum = sha256.Sum256([]byte("account"))
)

func toFn() []byte { return cborMap("fn", cborBytes(fnSum[:])) }
func toName(name string) []byte {
	return cborMap("acct", cborBytes(acctSum[:]), "name", cborText(name))
}
func toSince(name string, seq int) []byte {
	return cborMap("seq", cborInt(seq), "acct", cborBytes(acctSum[:]), "name", cborText(name))
}
func shownFn() vectors.To           { return vectors.To{Function: fnSum[:]} }
func shownName(n string) vectors.To { return vectors.To{Account: acctSum[:], Name: n} }

func v2Input(data []byte) vectors.V2Input {
	return vectors.V2Input{Keys: []string{nameA, nameB}, Data: data}
}

func v2AsText(binary []byte) []byte {
	return append([]byte(v2Text), b64(binary[len(v2Prefix):])...)
}

func streamEnvelopes(s *set, keys *keyring) {
	v2Good(s, keys)
	v2Refused(s, keys)
	v2Headers(s, keys)
	v2Fields(s, keys)
	v2Keys(s, keys)
	v2Framing(s, keys)
	v2Chunks(s, keys)
	v2TextForm(s, keys)
}

func v2Good(s *set, keys *keyring) {
	ok := func(name, about string, data, plain []byte, to vectors.To) {
		s.ok(name, about, v2Input(data), vectors.V2Output{To: to, Plaintext: plaintextOf(plain)})
	}
	short := []byte("input")
	data := newDraft(s, keys.capeA, toFn()).envelope(short)
	ok("to-function", "Names a function by its checksum.", data, short, shownFn())
	ok("to-function-text", "The same as text.", v2AsText(data), short, shownFn())
	ok("text-line-feed", "A line feed at the end, as printing adds it.", append(v2AsText(data), '\n'), short, shownFn())
	ok("text-carriage-return-line-feed", "The same on Windows.", append(v2AsText(data), "\r\n"...), short, shownFn())
	ok("to-name", "Names a function by account and name.", newDraft(s, keys.capeA, toName("my-fn")).envelope(short), short, shownName("my-fn"))
	since := shownName("my-fn")
	since.Seq = 1_764_276_000_000
	ok("to-name-since", "Names a function from one version on.", newDraft(s, keys.capeA, toSince("my-fn", int(since.Seq))).envelope(short), short, since)
	long := string(bytes.Repeat([]byte("n"), 128))
	ok("to-long-name", "The longest name.", newDraft(s, keys.capeA, toName(long)).envelope(short), short, shownName(long))
	ok("to-owner", "Names nobody.", newDraft(s, keys.capeA, cborNull()).envelope(short), short, vectors.To{})
	ok("other-key", "Sealed to the second key that the reader holds.", newDraft(s, keys.capeB, toFn()).envelope(short), short, shownFn())
	empty := newDraft(s, keys.capeA, toFn()).envelope(nil)
	ok("empty", "Nothing is one empty chunk.", empty, nil, shownFn())
	ok("empty-text", "The same as text.", v2AsText(empty), nil, shownFn())
	one := bytesOf("plaintext", v2Chunk)
	ok("one-whole-chunk", "A plaintext of exactly one chunk has no empty one after it.", newDraft(s, keys.capeA, toFn()).envelope(one), one, shownFn())
	two := bytesOf("plaintext", v2Chunk+1)
	ok("two-chunks", "A byte more than a chunk.", newDraft(s, keys.capeA, toFn()).envelope(two), two, shownFn())
	ok("two-chunks-text", "The same as text.", v2AsText(newDraft(s, keys.capeA, toFn()).envelope(two)), two, shownFn())
}

func v2Refused(s *set, keys *keyring) {
	data := newDraft(s, keys.capeA, toFn()).envelope([]byte("input"))
	accept := func(data []byte, to ...vectors.To) vectors.V2Input {
		in := v2Input(data)
		in.Accept = &to
		return in
	}
	s.ok("accepted", "The reader accepts only what the envelope names.", accept(data, shownFn()),
		vectors.V2Output{To: shownFn(), Plaintext: plaintextOf([]byte("input"))})
	s.fail("refused-function", "Names another function than the reader's.", accept(data, vectors.To{Function: acctSum[:]}, shownName("my-fn")), "refused")
	s.fail("refused-owner", "Names nobody, and the reader is not the owner's.",
		accept(newDraft(s, keys.capeA, cborNull()).envelope([]byte("input")), shownFn()), "refused")
	s.fail("refused-name", "Names another function of the same account.",
		accept(newDraft(s, keys.capeA, toName("other")).envelope([]byte("input")), shownName("my-fn")), "refused")
}
