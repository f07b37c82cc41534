package main

import (
	"bytes"
	"crypto"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/x509"
	"encoding/base64"
	"fmt"

	"github.com/cape-functions/cape/tools/vectorgen/vectors"
)

// published are the checksums of a run that the original documented: isprime
// on "13".
func published() (vectors.Checksums, error) {
	function, err := base64.StdEncoding.DecodeString("ZnMeXM8iZoDdXJih0a1St6TJhphAQtBnLY8xUxMLNKg=")
	return sumsOf("13", function, "13 is prime"), err
}

func sumsOf(input string, function []byte, output string) vectors.Checksums {
	in, out := sha256.Sum256([]byte(input)), sha256.Sum256([]byte(output))
	return vectors.Checksums{Input: in[:], Function: function, Output: out[:]}
}

func signedText(c vectors.Checksums) string {
	b64 := base64.StdEncoding.EncodeToString
	return fmt.Sprintf("{\"input\":%q,\"function\":%q,\"output\":%q}\n", b64(c.Input), b64(c.Function), b64(c.Output))
}

func checksums(s *set, _ *keyring) {
	known, err := published()
	s.check(err)
	for _, c := range []struct {
		name, about string
		sums        vectors.Checksums
	}{
		{"published-run", `The run of isprime on "13" that the original documented.`, known},
		{"empty-input-and-output", "Nothing in, nothing out.", sumsOf("", bytesOf("function", 32), "")},
	} {
		text := signedText(c.sums)
		sum := sha256.Sum256([]byte(text))
		s.ok(c.name, c.about, c.sums, vectors.ChecksumsOutput{Bytes: text, SHA256: sum[:]})
	}
}

func signatures(s *set, keys *keyring) {
	c, err := published()
	s.check(err)
	sign := func(text string, salt int, hash crypto.Hash) []byte {
		h := hash.New()
		h.Write([]byte(text))
		sig, err := rsa.SignPSS(&fixed{label: text}, keys.signer, hash, h.Sum(nil), &rsa.PSSOptions{SaltLength: salt, Hash: hash})
		s.check(err)
		return sig
	}
	text := signedText(c)
	pub := x509.MarshalPKCS1PublicKey(&keys.signer.PublicKey)
	spki, err := x509.MarshalPKIXPublicKey(&keys.signer.PublicKey)
	s.check(err)
	digest := sha256.Sum256([]byte(text))
	v15, err := rsa.SignPKCS1v15(nil, keys.signer, crypto.SHA256, digest[:])
	s.check(err)
	good := vectors.SignatureInput{Public: pub, Checksums: c, Signature: sign(text, 32, crypto.SHA256)}
	with := func(change func(*vectors.SignatureInput)) vectors.SignatureInput {
		in := good
		change(&in)
		return in
	}
	signed := func(sig []byte) vectors.SignatureInput {
		return with(func(in *vectors.SignatureInput) { in.Signature = sig })
	}
	swapped := vectors.Checksums{Input: c.Output, Function: c.Function, Output: c.Input}

	s.ok("salt-32", "A salt as long as the hash.", good, vectors.SignatureOutput{})
	s.ok("salt-longest", "The longest salt: any length is accepted.", signed(sign(text, 256-32-2, crypto.SHA256)), vectors.SignatureOutput{})
	s.ok("salt-none", "No salt.", signed(sign(text, 0, crypto.SHA256)), vectors.SignatureOutput{})
	s.fail("no-newline", "The signed text lacks its newline.", signed(sign(text[:len(text)-1], 32, crypto.SHA256)), "signature")
	s.fail("sha-512", "Signed over SHA-512.", signed(sign(text, 32, crypto.SHA512)), "signature")
	s.fail("pkcs1-v1.5", "Signed by PKCS#1 v1.5.", signed(v15), "signature")
	s.fail("changed", "One bit of the signature changed.", signed(append(bytes.Clone(good.Signature[:255]), good.Signature[255]^1)), "signature")
	s.fail("cut", "The signature is a byte short.", signed(good.Signature[:255]), "signature")
	s.fail("no-signature", "An empty signature.", signed([]byte{}), "signature")
	s.fail("other-output", "The output's checksum is another.", with(func(in *vectors.SignatureInput) {
		in.Checksums.Output = bytesOf("other", 32)
	}), "signature")
	s.fail("swapped", "Input and output changed places.", with(func(in *vectors.SignatureInput) { in.Checksums = swapped }), "signature")
	s.fail("key-is-spki", "The key is not in PKCS#1 form.", with(func(in *vectors.SignatureInput) { in.Public = spki }), "signing_key")
	s.fail("key-with-more", "A byte follows the key.", with(func(in *vectors.SignatureInput) {
		in.Public = append(bytes.Clone(pub), 0)
	}), "signing_key")
	s.fail("no-key", "No key.", with(func(in *vectors.SignatureInput) { in.Public = []byte{} }), "signing_key")
}
