package main

import (
	"bytes"
	"crypto/ed25519"
	"crypto/hmac"
	"crypto/sha256"
	"slices"

	"github.com/cape-functions/cape/tools/vectorgen/vectors"
)

var edDSA = []byte{0xa1, 0x01, 0x27}

// commit is HMAC-SHA-256(key, SHA-256(data)).
func commit(key, data []byte) []byte {
	sum := sha256.Sum256(data)
	mac := hmac.New(sha256.New, key)
	mac.Write(sum[:])
	return mac.Sum(nil)
}

func receiptObject() object {
	return object{{"v", 2}, {"fn", hashBytes("fn")}, {"in", commit(hashBytes("open in"), []byte("13"))},
		{"out", commit(hashBytes("open out"), []byte("13 is prime"))}, {"nonce", hashBytes("nonce")},
		{"route", "/v1/run/2222222222222222222222"}, {"id", 1}, {"prev", nil}, {"time", 1772600767000}, {"doc", hashBytes("doc")}}
}

// signReceipt returns the COSE_Sign1 of payload under a protected header and an external aad.
func signReceipt(key ed25519.PrivateKey, protected, aad, payload []byte) []byte {
	signed := encodeItem([]any{"Signature1", protected, aad, payload})
	return slices.Concat(cborHead(4, 4), cborBytes(protected), cborHead(5, 0), cborBytes(payload), cborBytes(ed25519.Sign(key, signed)))
}

func receipts(s *set, _ *keyring) {
	key, aad := ed25519.NewKeyFromSeed(hashBytes("receipt key")), []byte("cape v2 receipt")
	payload := receiptObject().encode()
	sum := sha256.Sum256(payload)
	good := vectors.ReceiptInput{Receipt: signReceipt(key, edDSA, aad, payload), Key: publicOf(key), Doc: hashBytes("doc"), Nonce: hashBytes("nonce"),
		InKey: hashBytes("open in"), OutKey: hashBytes("open out"), Input: []byte("13"), Output: []byte("13 is prime")}
	ok := func(name, about string, in, out bool, change func(*vectors.ReceiptInput)) {
		input := good
		change(&input)
		s.ok(name, about, input, vectors.ReceiptOutput{Value: receiptObject().view(), Hash: sum[:], InputOpens: in, OutputOpens: out})
	}
	ok("sound", "Both openings open it.", true, true, func(*vectors.ReceiptInput) {})
	ok("no-openings", "Shown without openings: it holds, and tells nothing of input and output.", false, false, func(in *vectors.ReceiptInput) { in.InKey, in.OutKey = []byte{}, []byte{} })
	ok("other-input", "Another input.", false, true, func(in *vectors.ReceiptInput) { in.Input = []byte("14") })
	ok("other-output", "Another output.", true, false, func(in *vectors.ReceiptInput) { in.Output = []byte("13 is not prime") })
	ok("openings-swapped", "The openings changed places.", false, false, func(in *vectors.ReceiptInput) { in.InKey, in.OutKey = in.OutKey, in.InKey })
	bad := func(name, about string, change func(*vectors.ReceiptInput)) {
		input := good
		change(&input)
		s.fail(name, about, input, "receipt")
	}
	sealed := func(protected, aad, payload []byte) func(*vectors.ReceiptInput) {
		return func(in *vectors.ReceiptInput) { in.Receipt = signReceipt(key, protected, aad, payload) }
	}
	raw := func(change func([]byte) []byte) func(*vectors.ReceiptInput) {
		return func(in *vectors.ReceiptInput) { in.Receipt = change(bytes.Clone(in.Receipt)) }
	}
	bad("another-key", "Signed by another key than the document's.", func(in *vectors.ReceiptInput) { in.Key = hashBytes("other") })
	bad("another-document", "Of another session.", func(in *vectors.ReceiptInput) { in.Doc = hashBytes("other") })
	bad("another-nonce", "Of another caller.", func(in *vectors.ReceiptInput) { in.Nonce = hashBytes("other") })
	bad("no-aad", "Signed without the external aad.", sealed(edDSA, nil, payload))
	bad("es384", "Another algorithm in the header.", sealed([]byte{0xa1, 0x01, 0x38, 0x22}, aad, payload))
	bad("no-header", "An empty protected header.", sealed([]byte{}, aad, payload))
	bad("payload-not-a-receipt", "Something else, signed.", sealed(edDSA, aad, []byte("payload")))
	bad("payload-out-of-order", "Signed, but not encoded as receipts are.", sealed(edDSA, aad, receiptObject().spoilt()["out-of-order"]))
	bad("tagged", "A tag before it.", raw(func(b []byte) []byte { return append([]byte{0xd2}, b...) }))
	bad("a-byte-more", "A byte follows.", raw(func(b []byte) []byte { return append(b, 0) }))
	bad("cut", "The last byte is missing.", raw(func(b []byte) []byte { return b[:len(b)-1] }))
	bad("signature-changed", "One bit of the signature changed.", raw(func(b []byte) []byte { b[len(b)-1] ^= 1; return b }))
	bad("payload-changed", "One bit of the payload changed.", raw(func(b []byte) []byte { b[60] ^= 1; return b }))
	bad("unprotected", "Something in the unprotected header.", raw(func(b []byte) []byte {
		at := 1 + 1 + len(edDSA)
		return slices.Concat(b[:at], []byte{0xa1, 0x61, 'k', 0xf5}, b[at+1:])
	}))
	bad("relabelled", "Signed as it must be, with another algorithm's number in the header.", raw(func(b []byte) []byte {
		return slices.Concat(b[:1], cborBytes([]byte{0xa1, 0x01, 0x26}), b[5:])
	}))
	bad("unprotected-null", "No unprotected header: it must be empty.", raw(func(b []byte) []byte { b[5] = 0xf6; return b }))
	bad("nothing", "No receipt.", raw(func([]byte) []byte { return []byte{} }))
}
