package main

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"

	"github.com/cape-functions/cape/tools/vectorgen/vectors"
)

// Frames were sealed once, with fresh ephemeral keys, and opened by a second
// implementation of RFC 9180: the standard library has no way to choose the
// ephemeral key.
const (
	frameEmpty  = "3e56e1370dfc175e5f41c70bcbe2c141f4d8c22807f43f363bc5ca238da9be22a156e70bea2b36bebb7997cb09536e5c"
	frameShort  = "1cf04ef3c60b695c7d4d5fc71fe67f0358248788741df8eb7896cde0f9d5f93b04ec5fc1d5c9903bf3e1f097bbfdbd20b524"
	frameLong   = "9042e8c6632e42f46e3b60c83ac6be0e527a0e7eba40979773c76634d2791118cec2228b96cadecc16be32aa4094a267cf62ae026e070a9b9331b8fd7b46b761b392a6df2eeeb745eb94f353d7f4561858577e48a34185b10918ca8c013b97f6d6ebccb6020a41f3fad1154a49369afbb0edf6734e85a376a10badcfdb5082e3de83d9b579e74035e77c0f1cadb4406a9f8752"
	frameOther  = "3329d0bad6567651ee14bb5ecadd7507e733f16a77c4b68d455d499bb7356e33e139f74cce8b9e08346175a9713a9990f8ab"
	frameInfo   = "e2beec3244430e6997ecd290ee8be148787e7db343de996f5a2288f3e3775f2945002db6440a753118569777d97644334a60"
	frameAAD    = "0ec4b9672db5b6b0fb4d0eb4d6155038b89ad671c440517b50e1bff61bb598389a697e1947a66949887e266b92f5350b99c6"
	frameAES    = "c368b9145355bcdcdba6e10a094233cf8a478dc3f220e7066a9a1b2860f5a26cc2c37c2197f04578855b27071b27c50abae1"
	frameSHA512 = "286fc6ca03aa972f9dda0521fe1ac6bb471eed3bc73145d46f4594b128118c555f68028aa380fa8f8403c1c763352a16f8e0"
	frameSecond = "21bee8231404316d361f5938b648c662dbf25aa88646e89f265413754b2026269e51478617c5417d695ef8997c08ed0de12d"

	textLong = "an input of some length, so that more than one block of ChaCha20 is used: it holds 64 bytes in each"
)

func sessionPrivate(name string) []byte {
	sum := sha256.Sum256([]byte("session key " + name))
	return sum[:]
}

func frames(s *set, _ *keyring) {
	in := func(text string) vectors.FrameInput {
		frame, err := hex.DecodeString(text)
		s.check(err)
		return vectors.FrameInput{Private: sessionPrivate("a"), Frame: frame}
	}
	changed := func(at int) vectors.FrameInput {
		v := in(frameShort)
		v.Frame = bytes.Clone(v.Frame)
		v.Frame[(at+len(v.Frame))%len(v.Frame)] ^= 1
		return v
	}
	cut := func(n int) vectors.FrameInput {
		v := in(frameShort)
		v.Frame = v.Frame[:n]
		return v
	}
	whole := len(frameShort) / 2
	s.ok("empty", "An input of no bytes.", in(frameEmpty), vectors.FrameOutput{Plaintext: []byte{}})
	s.ok("short", `The input "13".`, in(frameShort), vectors.FrameOutput{Plaintext: []byte("13")})
	s.ok("long", "An input of more than one block.", in(frameLong), vectors.FrameOutput{Plaintext: []byte(textLong)})
	s.ok("other-key", `The input "13" to another key.`,
		vectors.FrameInput{Private: sessionPrivate("b"), Frame: in(frameOther).Frame}, vectors.FrameOutput{Plaintext: []byte("13")})

	s.fail("nothing", "An empty frame.", cut(0), "frame")
	s.fail("key-alone", "No ciphertext after the key.", cut(32), "frame")
	s.fail("no-whole-tag", "A byte less than key and tag.", cut(47), "frame")
	s.fail("cut", "The last byte is missing.", cut(whole-1), "open")
	s.fail("longer", "A byte follows.", vectors.FrameInput{Private: sessionPrivate("a"), Frame: append(cut(whole).Frame, 0)}, "open")
	s.fail("key-changed", "A bit of the encapsulated key changed.", changed(5), "open")
	s.fail("ciphertext-changed", "A bit of the ciphertext changed.", changed(32), "open")
	s.fail("tag-changed", "A bit of the tag changed.", changed(-1), "open")
	s.fail("low-order-key", "The encapsulated key is of low order.",
		vectors.FrameInput{Private: sessionPrivate("a"), Frame: append(make([]byte, 32), in(frameShort).Frame[32:]...)}, "open")
	s.fail("to-another", "Sealed to another session's key.", in(frameOther), "open")
	s.fail("with-info", "Sealed with an info that is not empty.", in(frameInfo), "open")
	s.fail("with-aad", "Sealed with additional data.", in(frameAAD), "open")
	s.fail("aes-256-gcm", "Sealed with another AEAD.", in(frameAES), "open")
	s.fail("hkdf-sha512", "Sealed with another KDF.", in(frameSHA512), "open")
	s.fail("second-of-a-context", "The second message of one context: each frame must be a single shot.", in(frameSecond), "open")
}

func publicKeys(s *set, _ *keyring) {
	base := append([]byte{9}, make([]byte, 31)...)
	order8, err := hex.DecodeString("e0eb7a7c3b41b8ae1656e3faf19fc46ada098deb9c32b1fd866205165f49b800")
	s.check(err)
	s.ok("base-point", "A key that can be sealed to.", vectors.PublicKeyInput{Public: base}, vectors.PublicKeyOutput{})
	for _, c := range []struct {
		name, about string
		key         []byte
	}{
		{"empty", "No key.", []byte{}},
		{"short", "A byte too few.", base[:31]},
		{"long", "A byte too many.", append(bytes.Clone(base), 0)},
		{"zero", "The point zero, whose shared secret is zero.", make([]byte, 32)},
		{"order-8", "A point of order 8, whose shared secret is zero.", order8},
	} {
		s.fail(c.name, c.about, vectors.PublicKeyInput{Public: c.key}, "public_key")
	}
}
