package main

import (
	"bytes"
	"crypto/hkdf"
	"crypto/sha256"
	"encoding/binary"

	"github.com/cape-functions/cape/tools/vectorgen/vectors"
)

// schedule is HKDF-Extract(salt = transcript, ikm = secret) and one direction's expansions.
func schedule(s *set, in vectors.KeyScheduleInput, direction string) (key, iv []byte) {
	prk, err := hkdf.Extract(sha256.New, in.Secret, in.Transcript)
	s.check(err)
	key, err = hkdf.Expand(sha256.New, prk, "cape v2 "+direction+" key", 32)
	s.check(err)
	iv, err = hkdf.Expand(sha256.New, prk, "cape v2 "+direction+" iv", 12)
	s.check(err)
	return key, iv
}

func keySchedules(s *set, _ *keyring) {
	for _, c := range []struct {
		name, about string
		in          vectors.KeyScheduleInput
	}{
		{"one", "The keys of a session.", vectors.KeyScheduleInput{Transcript: hashBytes("transcript"), Secret: hashBytes("secret")}},
		{"other-transcript", "The same secret after another handshake: other keys.", vectors.KeyScheduleInput{Transcript: hashBytes("other"), Secret: hashBytes("secret")}},
		{"other-secret", "Another secret: other keys.", vectors.KeyScheduleInput{Transcript: hashBytes("transcript"), Secret: hashBytes("other")}},
	} {
		var out vectors.KeyScheduleOutput
		out.C2EKey, out.C2EIV = pair(schedule(s, c.in, "c2e"))
		out.E2CKey, out.E2CIV = pair(schedule(s, c.in, "e2c"))
		s.ok(c.name, c.about, c.in, out)
	}
}

func pair(a, b []byte) (vectors.Hex, vectors.Hex) { return a, b }

// sealRecords seals records from counter on.
func sealRecords(s *set, in vectors.KeyScheduleInput, direction string, counter uint64, records ...[]byte) [][]byte {
	key, iv := schedule(s, in, direction)
	var frames [][]byte
	for i, record := range records {
		nonce := bytes.Clone(iv)
		tail := nonce[4:]
		binary.BigEndian.PutUint64(tail, binary.BigEndian.Uint64(tail)^(counter+uint64(i)))
		frames = append(frames, sealGCM(s, key, nonce, record))
	}
	return frames
}

func recordSequences(s *set, _ *keyring) {
	keys := vectors.KeyScheduleInput{Transcript: hashBytes("transcript"), Secret: hashBytes("secret")}
	records := [][]byte{
		append([]byte{1}, object{{"id", 1}, {"kind", "input"}}.encode()...),
		append([]byte{2, 1}, "13"...),
		append([]byte{3}, object{{"id", 1}}.encode()...),
	}
	input := func(direction string, frames ...[]byte) vectors.RecordsInput {
		return vectors.RecordsInput{KeyScheduleInput: keys, Direction: direction, Frames: frames}
	}
	c2e, e2c := sealRecords(s, keys, "c2e", 0, records...), sealRecords(s, keys, "e2c", 0, records...)
	s.ok("c2e", "An input in three records.", input("c2e", c2e...), vectors.RecordsOutput{Records: records})
	s.ok("e2c", "The same in the other direction.", input("e2c", e2c...), vectors.RecordsOutput{Records: records})
	many := make([][]byte, 260)
	for i := range many {
		many[i] = []byte{2, 1, byte(i)}
	}
	s.ok("many", "260 records: the counter has more than one byte.", input("c2e", sealRecords(s, keys, "c2e", 0, many...)...), vectors.RecordsOutput{Records: many})
	bad := func(name, about string, frames ...[]byte) { s.fail(name, about, input("c2e", frames...), "record") }
	changed := func(frame []byte, at int) []byte {
		out := bytes.Clone(frame)
		out[(at+len(out))%len(out)] ^= 1
		return out
	}
	bad("swapped", "Two records changed places.", c2e[1], c2e[0], c2e[2])
	bad("twice", "One record comes twice.", c2e[0], c2e[1], c2e[1], c2e[2])
	bad("left-out", "One record is missing.", c2e[0], c2e[2])
	bad("first-left-out", "The first record is missing.", c2e[1:]...)
	bad("of-the-other-direction", "A record sent back to its sender.", e2c[0])
	bad("type-changed", "A bit of the type changed.", changed(c2e[0], 0))
	bad("tag-changed", "A bit of the tag changed.", changed(c2e[0], -1))
	bad("cut", "A record lacks its last byte.", c2e[0][:len(c2e[0])-1])
	bad("longer", "A byte follows a record.", append(bytes.Clone(c2e[0]), 0))
	bad("joined", "Two records in one frame.", append(bytes.Clone(c2e[0]), c2e[1]...))
	bad("tag-alone", "Fewer bytes than a tag.", c2e[0][:15])
	bad("no-frame", "An empty frame.", []byte{})
	bad("in-clear", "A record that was not sealed.", append(bytes.Clone(records[1]), make([]byte, 16)...))
	bad("counter-from-1", "Sealed from another counter on.", sealRecords(s, keys, "c2e", 1, records...)...)
	s.fail("empty", "A sealed record of no bytes.", input("c2e", sealRecords(s, keys, "c2e", 0, []byte{})...), "empty")
}
