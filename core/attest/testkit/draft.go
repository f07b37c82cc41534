package testkit

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/sha512"
	"encoding/asn1"
	"encoding/binary"
	"maps"
	"math/big"
	"slices"

	"github.com/cape-functions/cape/core/attest/nitro"
)

// CBOR major types, RFC 8949, 3.1.
const (
	Unsigned = 0
	Negative = 1
	Bytes    = 2
	Text     = 3
	Array    = 4
	Map      = 5
	Tag      = 6
)

// Break ends an item of indefinite length; Null and Undefined are simple values.
const (
	Break     = 0xff
	Null      = 0xf6
	Undefined = 0xf7
)

// Head returns the head of an item in its shortest form.
func Head(major byte, n uint64) []byte {
	switch {
	case n < 24:
		return []byte{major<<5 | byte(n)}
	case n < 1<<8:
		return []byte{major<<5 | 24, byte(n)}
	case n < 1<<16:
		return binary.BigEndian.AppendUint16([]byte{major<<5 | 25}, uint16(n))
	case n < 1<<32:
		return binary.BigEndian.AppendUint32([]byte{major<<5 | 26}, uint32(n))
	}
	return LongHead(major, n)
}

// LongHead returns the head of an item in its longest form.
func LongHead(major byte, n uint64) []byte {
	return binary.BigEndian.AppendUint64([]byte{major<<5 | 27}, n)
}

// BytesItem and TextItem return strings of definite length.
func BytesItem(b []byte) []byte { return append(Head(Bytes, uint64(len(b))), b...) }

// TextItem: see BytesItem.
func TextItem(s string) []byte { return append(Head(Text, uint64(len(s))), s...) }

// Items returns an array or a map of definite length; n counts pairs for a map.
func Items(major byte, n int, items ...[]byte) []byte {
	return append(Head(major, uint64(n)), slices.Concat(items...)...)
}

// Indefinite returns an array, map or string of indefinite length from its items.
func Indefinite(major byte, items ...[]byte) []byte {
	return append(append([]byte{major<<5 | 31}, slices.Concat(items...)...), Break)
}

// Chunks returns a string of indefinite length in three chunks, one of them empty.
func Chunks(major byte, b []byte) []byte {
	half := len(b) / 2
	chunk := func(c []byte) []byte { return append(Head(major, uint64(len(c))), c...) }
	return Indefinite(major, chunk(b[:half]), chunk(nil), chunk(b[half:]))
}

// Field is a pair of a map, both encoded.
type Field struct{ Key, Value []byte }

// Draft is a document in pieces, to be broken before it is signed.
type Draft struct {
	// Before and After stand around the COSE array, After's bytes being trailing ones.
	Before, After []byte
	// Protected is the content of the protected header's byte string.
	Protected []byte
	// Unprotected is the unprotected header, encoded.
	Unprotected []byte
	// Fields are the payload's, in order.
	Fields []Field
	// Payload makes the payload from Fields; nil means a definite map.
	Payload func(fields []Field) []byte
	// Key signs.
	Key *ecdsa.PrivateKey
	// Signature changes the signature when it is not nil.
	Signature func(sig []byte) []byte
	// Wrap makes the COSE array from its four parts, the strings among them unencoded;
	// nil means a definite array of definite strings.
	Wrap func(protected, unprotected, payload, signature []byte) []byte
}

// Draft returns doc in pieces, which Bytes would sign as Sign does.
func (a *Authority) Draft(doc nitro.Document) *Draft {
	pcrs := Head(Map, uint64(len(doc.PCRs)))
	for _, i := range slices.Sorted(maps.Keys(doc.PCRs)) {
		value := doc.PCRs[i]
		pcrs = slices.Concat(pcrs, Head(Unsigned, uint64(i)), BytesItem(value[:]))
	}
	d := &Draft{Protected: []byte{0xa1, 0x01, 0x38, 0x22}, Unprotected: []byte{0xa0}, Key: a.LeafKey}
	d.Set("module_id", TextItem(doc.ModuleID))
	d.Set("digest", TextItem(doc.Digest))
	d.Set("timestamp", Head(Unsigned, uint64(doc.Timestamp.UnixMilli())))
	d.Set("pcrs", pcrs)
	d.Set("certificate", BytesItem(doc.Certificate))
	d.Set("cabundle", Items(Array, len(doc.CABundle), bundleItems(doc.CABundle)...))
	d.Set("public_key", optional(doc.PublicKey))
	d.Set("user_data", optional(doc.UserData))
	d.Set("nonce", optional(doc.Nonce))
	return d
}

func bundleItems(bundle [][]byte) [][]byte {
	items := make([][]byte, len(bundle))
	for i, der := range bundle {
		items[i] = BytesItem(der)
	}
	return items
}

func optional(b []byte) []byte {
	if b == nil {
		return []byte{Null}
	}
	return BytesItem(b)
}

// Set replaces the field's value or adds the field at the end.
func (d *Draft) Set(name string, value []byte) {
	key := TextItem(name)
	for i, f := range d.Fields {
		if slices.Equal(f.Key, key) {
			d.Fields[i].Value = value
			return
		}
	}
	d.Add(key, value)
}

// Add adds a field at the end, whether or not there is one of this key.
func (d *Draft) Add(key, value []byte) { d.Fields = append(d.Fields, Field{key, value}) }

// Drop leaves the field out.
func (d *Draft) Drop(name string) {
	key := TextItem(name)
	d.Fields = slices.DeleteFunc(d.Fields, func(f Field) bool { return slices.Equal(f.Key, key) })
}

func concat(fields []Field) []byte {
	var b []byte
	for _, f := range fields {
		b = slices.Concat(b, f.Key, f.Value)
	}
	return b
}

// Bytes signs the draft and returns the document.
func (d *Draft) Bytes() []byte {
	payload := Items(Map, len(d.Fields), concat(d.Fields))
	if d.Payload != nil {
		payload = d.Payload(d.Fields)
	}
	sig := signature(d.Protected, payload, d.Key)
	if d.Signature != nil {
		sig = d.Signature(sig)
	}
	wrap := d.Wrap
	if wrap == nil {
		wrap = definite
	}
	return slices.Concat(d.Before, wrap(d.Protected, d.Unprotected, payload, sig), d.After)
}

func definite(protected, unprotected, payload, sig []byte) []byte {
	return Items(Array, 4, BytesItem(protected), unprotected, BytesItem(payload), BytesItem(sig))
}

// signature is written here once more, so that a fault in package nitro shows.
func signature(protected, payload []byte, key *ecdsa.PrivateKey) []byte {
	message := Items(Array, 4, TextItem("Signature1"), BytesItem(protected), BytesItem(nil), BytesItem(payload))
	digest := sha512.Sum384(message)
	der := must(key.Sign(nil, digest[:], crypto.SHA384))
	var v struct{ R, S *big.Int }
	must(asn1.Unmarshal(der, &v))
	sig := make([]byte, nitro.SignatureSize)
	v.R.FillBytes(sig[:48])
	v.S.FillBytes(sig[48:])
	return sig
}
