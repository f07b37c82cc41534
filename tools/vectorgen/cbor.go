package main

import "encoding/binary"

// cborHead is the shortest head of a CBOR item.
func cborHead(major byte, n int) []byte {
	switch {
	case n < 24:
		return []byte{major<<5 | byte(n)}
	case n < 256:
		return []byte{major<<5 | 24, byte(n)}
	}
	return binary.BigEndian.AppendUint16([]byte{major<<5 | 25}, uint16(n))
}

func cborBytes(b []byte) []byte { return append(cborHead(2, len(b)), b...) }
func cborText(t string) []byte  { return append(cborHead(3, len(t)), t...) }
func cborNull() []byte          { return []byte{0xf6} }

// cborMap takes keys as text and values as CBOR, in the order in which they
// are given.
func cborMap(pairs ...any) []byte {
	out := cborHead(5, len(pairs)/2)
	for i := 0; i < len(pairs); i += 2 {
		out = append(append(out, cborText(pairs[i].(string))...), pairs[i+1].([]byte)...)
	}
	return out
}
