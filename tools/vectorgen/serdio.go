package main

import (
	"encoding/binary"
	"fmt"
	"math"

	"github.com/cape-functions/cape/tools/vectorgen/vectors"
)

// MessagePack extension types of serdio.
const (
	extComplex   = 1
	extTuple     = 2
	extSet       = 3
	extFrozenset = 4
)

func num(n int64) vectors.Value     { return vectors.Value{Int: &n} }
func float(f float64) vectors.Value { return vectors.Value{Float: &f} }
func str(v string) vectors.Value    { return vectors.Value{Str: &v} }
func boolean(b bool) vectors.Value  { return vectors.Value{Bool: &b} }
func none() vectors.Value           { return vectors.Value{None: true} }
func list(v ...vectors.Value) vectors.Value {
	return vectors.Value{List: &v}
}
func tuple(v ...vectors.Value) vectors.Value     { return vectors.Value{Tuple: &v} }
func setOf(v ...vectors.Value) vectors.Value     { return vectors.Value{Set: &v} }
func frozenset(v ...vectors.Value) vectors.Value { return vectors.Value{Frozenset: &v} }
func raw(s string) vectors.Value {
	b := vectors.Hex(s)
	return vectors.Value{Bytes: &b}
}

// pack encodes a value as serdio does.
func pack(v vectors.Value) []byte {
	switch {
	case v.Int != nil:
		return packInt(*v.Int)
	case v.Float != nil:
		return binary.BigEndian.AppendUint64([]byte{0xcb}, math.Float64bits(*v.Float))
	case v.Str != nil:
		return packStr(*v.Str)
	case v.Bytes != nil:
		return append([]byte{0xc4, byte(len(*v.Bytes))}, *v.Bytes...)
	case v.Bool != nil && *v.Bool:
		return []byte{0xc3}
	case v.Bool != nil:
		return []byte{0xc2}
	case v.List != nil:
		return packList(*v.List)
	case v.Tuple != nil:
		return packExt(extTuple, packList(*v.Tuple))
	case v.Set != nil:
		return packExt(extSet, packList(*v.Set))
	case v.Frozenset != nil:
		return packExt(extFrozenset, packList(*v.Frozenset))
	case v.Complex != nil:
		return packExt(extComplex, pack(tuple(float(v.Complex[0]), float(v.Complex[1]))))
	}
	return []byte{0xc0}
}

// packInt covers the ranges that the scenarios use.
func packInt(n int64) []byte {
	switch {
	case n >= 0 && n < 128:
		return []byte{byte(n)}
	case n < 0 && n >= -32:
		return []byte{byte(int8(n))}
	case n >= 0 && n <= math.MaxUint8:
		return []byte{0xcc, byte(n)}
	}
	return binary.BigEndian.AppendUint64([]byte{0xd3}, uint64(n))
}

func packStr(s string) []byte {
	if len(s) < 32 {
		return append([]byte{0xa0 | byte(len(s))}, s...)
	}
	return append([]byte{0xd9, byte(len(s))}, s...)
}

func packList(values []vectors.Value) []byte {
	out := []byte{0x90 | byte(len(values))}
	for _, v := range values {
		out = append(out, pack(v)...)
	}
	return out
}

func packExt(kind byte, data []byte) []byte {
	fixed := map[int]byte{1: 0xd4, 2: 0xd5, 4: 0xd6, 8: 0xd7, 16: 0xd8}
	if head, ok := fixed[len(data)]; ok {
		return append([]byte{head, kind}, data...)
	}
	return append([]byte{0xc7, byte(len(data)), kind}, data...)
}

// call encodes serialize(*args, **kwargs); at most one keyword, so that order
// does not matter.
func call(args []vectors.Value, keyword string, value vectors.Value) []byte {
	out := append([]byte{0x81}, packStr("_serdio_args_")...)
	out = append(out, pack(tuple(args...))...)
	if keyword != "" {
		out[0] = 0x82
		out = append(append(out, packStr("_serdio_kwargs_")...), 0x81)
		out = append(append(out, packStr(keyword)...), pack(value)...)
	}
	return out
}

func serdio(s *set, _ *keyring) {
	c := func(re, im float64) vectors.Value { return vectors.Value{Complex: &[2]float64{re, im}} }
	for _, v := range []struct {
		name, call string
		args       []vectors.Value
		keyword    string
		value      vectors.Value
	}{
		{"int", "serialize(1)", []vectors.Value{num(1)}, "", none()},
		{"list", "serialize([1, 2, 3, 4])", []vectors.Value{list(num(1), num(2), num(3), num(4))}, "", none()},
		{"args-and-kwargs", "serialize(2, 3.0, b=2.0)", []vectors.Value{num(2), float(3)}, "b", float(2)},
		{"tuple", "serialize((1, 2))", []vectors.Value{tuple(num(1), num(2))}, "", none()},
		{"set", "serialize({1})", []vectors.Value{setOf(num(1))}, "", none()},
		{"frozenset", "serialize(frozenset({1}))", []vectors.Value{frozenset(num(1))}, "", none()},
		{"complex", "serialize(1+2j)", []vectors.Value{c(1, 2)}, "", none()},
		{"bytes", `serialize(b"ab")`, []vectors.Value{raw("ab")}, "", none()},
		{"str", `serialize("häi")`, []vectors.Value{str("häi")}, "", none()},
		{"none-and-bool", "serialize(None, True, False)", []vectors.Value{none(), boolean(true), boolean(false)}, "", none()},
		{"negative-int", "serialize(-1, 200)", []vectors.Value{num(-1), num(200)}, "", none()},
		{"nested", "serialize([(1, {2}), [3+0j]])", []vectors.Value{list(tuple(num(1), setOf(num(2))), list(c(3, 0)))}, "", none()},
		{"nothing", "serialize()", nil, "", none()},
	} {
		out := vectors.SerdioOutput{Call: v.call, Args: append([]vectors.Value{}, v.args...)}
		if v.keyword != "" {
			out.Kwargs = map[string]vectors.Value{v.keyword: v.value}
		}
		s.ok(v.name, fmt.Sprintf("What Python's %s gives.", v.call), vectors.SerdioInput{Bytes: call(v.args, v.keyword, v.value)}, out)
	}
	good := call([]vectors.Value{num(1)}, "", none())
	s.fail("cut", "The last byte is missing.", vectors.SerdioInput{Bytes: good[:len(good)-1]}, "format")
	s.fail("longer", "A byte follows.", vectors.SerdioInput{Bytes: append(append([]byte{}, good...), 0)}, "format")
	s.fail("empty", "No bytes at all.", vectors.SerdioInput{Bytes: []byte{}}, "format")
	s.fail("not-a-map", "A list at the top.", vectors.SerdioInput{Bytes: pack(list(num(1)))}, "format")
	s.fail("no-args", "A map without _serdio_args_.", vectors.SerdioInput{Bytes: append([]byte{0x81}, append(packStr("x"), 1)...)}, "format")
	s.fail("tuple-of-no-list", "A tuple whose data is not a list.", vectors.SerdioInput{
		Bytes: append(append([]byte{0x81}, packStr("_serdio_args_")...), packExt(extTuple, []byte{1})...)}, "format")
}
