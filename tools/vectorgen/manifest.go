package main

import (
	"crypto/ed25519"
	"crypto/sha256"
	"math/big"
	"strings"

	"github.com/cape-functions/cape/tools/vectorgen/vectors"
)

const base57 = "23456789ABCDEFGHJKLMNPQRSTUVWXYZabcdefghijkmnopqrstuvwxyz"

// functionID is base57 of the first 16 bytes of SHA-256("cape v2 id\0" ‖ manifest).
func functionID(manifest []byte) string {
	sum := sha256.Sum256(append([]byte("cape v2 id\x00"), manifest...))
	n, digit := new(big.Int).SetBytes(sum[:16]), new(big.Int)
	out := ""
	for len(out) < 22 {
		n.DivMod(n, big.NewInt(57), digit)
		out = string(base57[digit.Int64()]) + out
	}
	return out
}

// accountKey is a fixed account's private key.
func accountKey(name string) ed25519.PrivateKey {
	return ed25519.NewKeyFromSeed(hashBytes("account " + name))
}

func publicOf(key ed25519.PrivateKey) []byte { return key[32:] }

// acctOf is the SHA-256 of the key's SPKI.
func acctOf(key ed25519.PrivateKey) []byte {
	sum := sha256.Sum256(append([]byte{0x30, 0x2a, 0x30, 0x05, 0x06, 0x03, 0x2b, 0x65, 0x70, 0x03, 0x21, 0x00}, publicOf(key)...))
	return sum[:]
}

func manifestObject() object {
	return object{{"v", 2}, {"owner", object{{"iss", "https://issuer.example"}, {"sub", "alice"}}}, {"acct", acctOf(accountKey("alice"))},
		{"name", "echo"}, {"access", "token"}, {"decrypt", "owner"}, {"seq", 7}, {"checksum", hashBytes("fn")}, {"salt", bytesOf("salt", 16)}}
}

func manifests(s *set, _ *keyring) {
	m := manifestObject()
	owner := object{{"iss", "https://issuer.example"}, {"sub", "alice"}}
	good := func(name, about string, o object) {
		raw := o.encode()
		s.ok(name, about, vectors.ManifestInput{Manifest: raw}, vectors.ManifestOutput{ID: functionID(raw), Value: o.view()})
	}
	good("signed", "A function of an account.", m)
	good("public", "Whoever shows a token may run it: another id.", m.with("access", "public"))
	good("grant", "The account itself and whom it lets.", m.with("access", "grant"))
	good("decrypt-any", "Envelopes open for whoever is admitted.", m.with("decrypt", "any"))
	good("next-seq", "The next version: another id.", m.with("seq", 8))
	good("large-seq", "A time in milliseconds.", m.with("seq", 1772600767000))
	good("without-account", "Written by the enclave for a client of version 1.", m.with("acct", nil).with("decrypt", "any"))
	good("longest-name", "A name of 128 bytes.", m.with("name", strings.Repeat("n", 128)))
	refuse := func(name, about string, o object) {
		s.fail(name, about, vectors.ManifestInput{Manifest: o.encode()}, "malformed")
	}
	for how, raw := range m.spoilt() {
		s.fail(how, "The manifest "+strings.ReplaceAll(how, "-", " ")+".", vectors.ManifestInput{Manifest: raw}, "malformed")
	}
	refuse("version-1", "Another version.", m.with("v", 1))
	refuse("no-issuer", "An owner without issuer.", m.with("owner", owner.with("iss", "")))
	refuse("no-subject", "An owner without subject.", m.with("owner", owner.with("sub", "")))
	refuse("owner-with-more", "An unknown key in the owner.", m.with("owner", owner.with("name", "alice")))
	refuse("long-issuer", "An issuer of 513 bytes.", m.with("owner", owner.with("iss", strings.Repeat("i", 513))))
	refuse("long-subject", "A subject of 513 bytes.", m.with("owner", owner.with("sub", strings.Repeat("s", 513))))
	refuse("short-account", "An account of 31 bytes.", m.with("acct", bytesOf("acct", 31)))
	refuse("empty-account", "An account of no bytes is not null.", m.with("acct", []byte{}))
	refuse("grant-without-account", "A grant that nobody can give.", m.with("acct", nil).with("access", "grant"))
	refuse("no-name", "An empty name.", m.with("name", ""))
	refuse("path-as-name", "A name with a slash.", m.with("name", "bob/medical"))
	refuse("dots-as-name", "A name that begins with a dot.", m.with("name", ".."))
	refuse("long-name", "A name of 129 bytes.", m.with("name", strings.Repeat("n", 129)))
	refuse("unknown-access", "Another access.", m.with("access", "everybody"))
	refuse("unknown-decrypt", "Another decrypt.", m.with("decrypt", "nobody"))
	refuse("negative-seq", "A negative number.", m.with("seq", -1))
	refuse("short-checksum", "A checksum of 31 bytes.", m.with("checksum", bytesOf("fn", 31)))
	refuse("long-salt", "A salt of 17 bytes.", m.with("salt", bytesOf("salt", 17)))
}

func signManifest(key ed25519.PrivateKey, label string, manifest []byte) []byte {
	return ed25519.Sign(key, append([]byte(label), manifest...))
}

const labelManifest = "cape v2 manifest\x00"

func manifestSignatures(s *set, _ *keyring) {
	alice, bob := accountKey("alice"), accountKey("bob")
	m := manifestObject().encode()
	good := vectors.ManifestSignatureInput{Manifest: m, Signature: signManifest(alice, labelManifest, m), Key: publicOf(alice)}
	with := func(change func(*vectors.ManifestSignatureInput)) vectors.ManifestSignatureInput {
		in := good
		change(&in)
		return in
	}
	s.ok("sound", "Signed by the account it names.", good, vectors.ManifestSignatureOutput{Acct: acctOf(alice), ID: functionID(m)})
	bad := func(name, about string, change func(*vectors.ManifestSignatureInput)) {
		s.fail(name, about, with(change), "manifest")
	}
	bad("another-key", "Signed by another account, which shows its own key.", func(in *vectors.ManifestSignatureInput) {
		in.Signature, in.Key = signManifest(bob, labelManifest, m), publicOf(bob)
	})
	bad("key-swapped", "The key of another account.", func(in *vectors.ManifestSignatureInput) { in.Key = publicOf(bob) })
	bad("signed-by-another", "The right key, another's signature.", func(in *vectors.ManifestSignatureInput) { in.Signature = signManifest(bob, labelManifest, m) })
	bad("access-flipped", "Access was changed after it was signed.", func(in *vectors.ManifestSignatureInput) {
		in.Manifest = manifestObject().with("access", "public").encode()
	})
	bad("without-account", "A manifest without account: nobody can have signed it.", func(in *vectors.ManifestSignatureInput) {
		in.Manifest = manifestObject().with("acct", nil).encode()
		in.Signature = signManifest(alice, labelManifest, in.Manifest)
	})
	bad("no-signature", "The signature was taken away.", func(in *vectors.ManifestSignatureInput) { in.Signature = []byte{} })
	bad("cut", "The signature is a byte short.", func(in *vectors.ManifestSignatureInput) { in.Signature = in.Signature[:63] })
	bad("no-label", "Signed without the label.", func(in *vectors.ManifestSignatureInput) { in.Signature = signManifest(alice, "", m) })
	bad("other-label", "An authority shown as a manifest's signature.", func(in *vectors.ManifestSignatureInput) {
		in.Signature = signManifest(alice, "cape v2 authority\x00", m)
	})
	bad("no-key", "No key.", func(in *vectors.ManifestSignatureInput) { in.Key = []byte{} })
	bad("key-is-spki", "The key is not raw.", func(in *vectors.ManifestSignatureInput) {
		in.Key = append([]byte{0x30, 0x2a, 0x30, 0x05, 0x06, 0x03, 0x2b, 0x65, 0x70, 0x03, 0x21, 0x00}, publicOf(alice)...)
	})
	bad("not-deterministic", "Signed, but not encoded as manifests are.", func(in *vectors.ManifestSignatureInput) {
		in.Manifest = manifestObject().spoilt()["out-of-order"]
		in.Signature = signManifest(alice, labelManifest, in.Manifest)
	})
}
