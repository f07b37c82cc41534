package main

import (
	"encoding/binary"
	"encoding/hex"
	"slices"
	"strings"

	"github.com/cape-functions/cape/tools/vectorgen/vectors"
)

// object is a CBOR map of text keys. Values are int, string, []byte, nil,
// object, or []any of these.
type object []field

type field struct {
	key   string
	value any
}

// with returns o with key set to value, added at its end if it was not there.
func (o object) with(key string, value any) object {
	out := slices.Clone(o)
	for i := range out {
		if out[i].key == key {
			out[i].value = value
			return out
		}
	}
	return append(out, field{key, value})
}

// without returns o without key.
func (o object) without(key string) object {
	return slices.DeleteFunc(slices.Clone(o), func(f field) bool { return f.key == key })
}

// items are the encoded pairs in deterministic order: by the bytes of the
// encoded keys (RFC 8949, 4.2.1).
func (o object) items() [][]byte {
	var all [][2]string
	for _, f := range o {
		all = append(all, [2]string{string(cborText(f.key)), string(encodeItem(f.value))})
	}
	slices.SortStableFunc(all, func(a, b [2]string) int { return strings.Compare(a[0], b[0]) })
	var out [][]byte
	for _, pair := range all {
		out = append(out, []byte(pair[0]+pair[1]))
	}
	return out
}

func (o object) encode() []byte {
	return slices.Concat(append([][]byte{cborHead(5, len(o))}, o.items()...)...)
}

func encodeItem(v any) []byte {
	switch v := v.(type) {
	case object:
		return v.encode()
	case []byte:
		return cborBytes(v)
	case string:
		return cborText(v)
	case int:
		return cborInt(v)
	case []any:
		out := cborHead(4, len(v))
		for _, item := range v {
			out = append(out, encodeItem(item)...)
		}
		return out
	}
	return cborNull()
}

func cborInt(n int) []byte {
	if n < 0 {
		out := cborInt(-1 - n)
		out[0] |= 1 << 5
		return out
	}
	if n < 1<<16 {
		return cborHead(0, n)
	}
	if n < 1<<32 {
		return binary.BigEndian.AppendUint32([]byte{26}, uint32(n))
	}
	return binary.BigEndian.AppendUint64([]byte{27}, uint64(n))
}

// view is the object as vectors.MessageOutput shows it.
func (o object) view() any {
	out := make(map[string]any)
	for _, f := range o {
		if b, ok := f.value.([]byte); ok {
			out[f.key+"_hex"] = hex.EncodeToString(b)
			continue
		}
		out[f.key] = viewItem(f.value)
	}
	return out
}

func viewItem(v any) any {
	switch v := v.(type) {
	case object:
		return v.view()
	case []any:
		list := []any{}
		for _, item := range v {
			list = append(list, viewItem(item))
		}
		return list
	}
	return v
}

// spoilt are encodings of o that no reader may take, by name.
func (o object) spoilt() map[string][]byte {
	items, whole := o.items(), o.encode()
	body := slices.Concat(items...)
	out := map[string][]byte{
		"with-a-byte-more":   append(slices.Clone(whole), 0),
		"cut":                whole[:len(whole)-1],
		"with-unknown-key":   o.with("zzzzzzzzzzzzzzzzzzzzzz", nil).encode(),
		"with-a-key-twice":   slices.Concat(cborHead(5, len(o)+1), items[0], body),
		"of-no-given-length": slices.Concat([]byte{0xbf}, body, []byte{0xff}),
		"tagged":             append([]byte{0xc1}, whole...),
		"with-a-long-head":   slices.Concat([]byte{0xb8, byte(len(o))}, body),
		"as-a-list":          slices.Concat(cborHead(4, 2*len(o)), body),
	}
	if len(items) > 1 {
		swapped := slices.Clone(items)
		swapped[0], swapped[1] = swapped[1], swapped[0]
		out["out-of-order"] = slices.Concat(append([][]byte{cborHead(5, len(o))}, swapped...)...)
	}
	for _, f := range o {
		out["without-"+strings.ReplaceAll(f.key, "_", "-")] = o.without(f.key).encode()
	}
	return out
}

// message adds a message that is read, and every way to spoil its encoding.
func (s *set) message(typ, name, about string, o object) {
	s.ok(typ+"-"+name, about, messageInput(typ, o), vectors.MessageOutput{Value: o.view()})
	for how, raw := range o.spoilt() {
		s.fail(typ+"-"+name+"-"+how, "The same, "+strings.ReplaceAll(how, "-", " ")+".",
			vectors.MessageInput{Type: typ, Bytes: raw}, "malformed")
	}
}

// accepted adds a message that is read, refused one that is not.
func (s *set) accepted(typ, name, about string, o object) {
	s.ok(typ+"-"+name, about, messageInput(typ, o), vectors.MessageOutput{Value: o.view()})
}

func (s *set) refused(typ, name, about string, o object) {
	s.fail(typ+"-"+name, about, messageInput(typ, o), "malformed")
}

func messageInput(typ string, o object) vectors.MessageInput {
	return vectors.MessageInput{Type: typ, Bytes: o.encode()}
}
