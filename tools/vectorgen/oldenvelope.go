package main

import (
	"bytes"
	"crypto/aes"
	"crypto/cipher"
	"crypto/rsa"
	"crypto/sha256"
	"encoding/base64"
	"slices"
	"strings"

	"github.com/cape-functions/cape/tools/vectorgen/vectors"
)

const oldPrefix = "cape:"

// gcmSeal seals under AES-GCM without additional data.
func gcmSeal(s *set, key, nonce, plaintext []byte) []byte {
	block, err := aes.NewCipher(key)
	if err != nil {
		s.check(err)
		return nil
	}
	gcm, err := cipher.NewGCM(block)
	if err != nil {
		s.check(err)
		return nil
	}
	return gcm.Seal(nil, nonce, plaintext, nil)
}

func wrap(s *set, key *rsa.PrivateKey, secret, label []byte) []byte {
	wrapped, err := rsa.EncryptOAEP(sha256.New(), &fixed{label: "oaep seed"}, &key.PublicKey, secret, label)
	s.check(err)
	return wrapped
}

// oldBody is wrapped key ‖ nonce ‖ ciphertext.
func oldBody(s *set, key *rsa.PrivateKey, plaintext []byte, keySize int) []byte {
	dek, nonce := bytesOf("data key", keySize), bytesOf("nonce", 12)
	return slices.Concat(wrap(s, key, dek, nil), nonce, gcmSeal(s, dek, nonce, plaintext))
}

func b64(b []byte) []byte { return []byte(base64.StdEncoding.EncodeToString(b)) }

func oldEnvelopes(s *set, keys *keyring) {
	raw := func(body []byte) vectors.OldInput {
		return vectors.OldInput{Form: "raw", Key: nameA, Data: append([]byte(oldPrefix), body...)}
	}
	text := func(t []byte) vectors.OldInput {
		return vectors.OldInput{Form: "text", Key: nameA, Data: append([]byte(oldPrefix), t...)}
	}
	for _, c := range []struct {
		name  string
		plain []byte
	}{
		{"empty", nil}, {"one-byte", []byte("x")}, {"five-bytes", []byte("input")}, {"six-bytes", []byte("inputs")}, {"long", bytesOf("plaintext", 5000)},
	} {
		body := oldBody(s, keys.capeA, c.plain, 32)
		s.ok("raw-"+c.name, "The raw form, as deploys use it.", raw(body), plaintextOf(c.plain))
		s.ok("text-"+c.name, "The text form.", text(b64(body)), plaintextOf(c.plain))
	}
	body := oldBody(s, keys.capeA, []byte("input"), 32) // 545 bytes: padded as text
	good := b64(body)
	s.ok("text-line-feed", "A line feed at the end, as printing adds it.", text(append(bytes.Clone(good), '\n')), plaintextOf([]byte("input")))
	s.ok("text-carriage-return-line-feed", "The same on Windows.", text(append(bytes.Clone(good), "\r\n"...)), plaintextOf([]byte("input")))
	oldRaw(s, keys, raw, body)
	oldText(s, text, body, good)
}

func oldRaw(s *set, keys *keyring, raw func([]byte) vectors.OldInput, body []byte) {
	changed := func(at int) vectors.OldInput {
		c := bytes.Clone(body)
		c[at] ^= 1
		return raw(c)
	}
	other := raw(body)
	other.Key = nameB
	nothing := raw(nil)
	nothing.Data = []byte{}
	noPrefix := raw(nil)
	noPrefix.Data = body
	last := len(body) - 1
	s.fail("raw-nothing", "No bytes at all.", nothing, "format")
	s.fail("raw-no-prefix", `Without "cape:".`, noPrefix, "format")
	s.fail("raw-prefix-alone", `Only "cape:".`, raw(nil), "format")
	s.fail("raw-too-short", "A byte less than key, nonce and tag.", raw(body[:512+12+15]), "format")
	s.fail("raw-cut", "The last byte is missing.", raw(body[:last]), "damaged")
	s.fail("raw-longer", "A byte follows.", raw(append(bytes.Clone(body), 0)), "damaged")
	s.fail("raw-wrapped-key-changed", "A bit of the wrapped key changed.", changed(100), "damaged")
	s.fail("raw-nonce-changed", "A bit of the nonce changed.", changed(512), "damaged")
	s.fail("raw-ciphertext-changed", "A bit of the ciphertext changed.", changed(512+12), "damaged")
	s.fail("raw-tag-changed", "A bit of the tag changed.", changed(last), "damaged")
	s.fail("raw-other-key", "Sealed to another key.", other, "damaged")
	s.fail("raw-text", "The text form where the raw one is due.", raw(b64(body)), "damaged")
	s.fail("raw-data-key-of-16", "A data key of 16 bytes.", raw(oldBody(s, keys.capeA, []byte("input"), 16)), "format")

	labelled := slices.Concat(wrap(s, keys.capeA, bytesOf("data key", 32), []byte("label")), body[512:])
	s.fail("raw-oaep-label", "The data key is wrapped under a label.", raw(labelled), "damaged")
}

func oldText(s *set, text func([]byte) vectors.OldInput, body, good []byte) {
	insert := func(at int, more string) vectors.OldInput {
		return text(slices.Insert(bytes.Clone(good), at, []byte(more)...))
	}
	const alphabet = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/"
	stray := bytes.Clone(good)
	at := bytes.IndexByte(stray, '=') - 1
	stray[at] = alphabet[strings.IndexByte(alphabet, stray[at])|1]

	s.fail("text-two-line-feeds", "Two line feeds at the end.", insert(len(good), "\n\n"), "format")
	s.fail("text-line-feed-inside", "Wrapped lines.", insert(76, "\n"), "format")
	s.fail("text-space-in-front", "A space before the base64.", insert(0, " "), "format")
	s.fail("text-not-padded", "Without its padding.", text(bytes.TrimRight(good, "=")), "format")
	s.fail("text-after-padding", "More base64 after the padding.", insert(len(good), "AAAA"), "format")
	s.fail("text-stray-bits", "Bits of the last group that carry nothing are set.", text(stray), "format")
	s.fail("text-url-alphabet", "The URL alphabet of base64.", text([]byte(base64.URLEncoding.EncodeToString(body))), "format")
	s.fail("text-raw", "The raw form where text is due.", text(body), "format")
	s.fail("text-cut", "Cut after a group of four.", text(good[:len(good)-8]), "damaged")
	s.fail("text-new-form", "The prefix of the new form.", text(append([]byte("v2,"), good...)), "format")
}
