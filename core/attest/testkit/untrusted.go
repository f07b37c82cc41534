package testkit

import (
	"crypto/elliptic"
	"crypto/rsa"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"math/big"
	"slices"

	"github.com/cape-functions/cape/core/attest/chain"
	"github.com/cape-functions/cape/core/attest/nitro"
	"github.com/cape-functions/cape/core/attest/policy"
)

// roots do not begin with a root that the policy accepts.
func (w *workshop) roots() []Case {
	bundle := func(b ...[]byte) func(*nitro.Document) { return func(d *nitro.Document) { d.CABundle = b } }
	b := w.authority.CABundle
	roots := func(r ...[]byte) func(*policy.Policy) { return func(p *policy.Policy) { p.Roots = r } }
	// Same names as the accepted root: another key, and the same key under another number.
	impostor := NewPlan("cape tests", w.at)
	impostor.Chain[0].Key = Key("impostor")
	renewed := NewPlan("cape tests", w.at)
	renewed.Chain[0].Template.SerialNumber = big.NewInt(99)
	foreign := NewAuthority("somebody else", w.at)
	from := func(a *Authority) (func(*nitro.Document), func(*Draft)) {
		return func(d *nitro.Document) { d.CABundle, d.Certificate = a.CABundle, a.Leaf },
			func(d *Draft) { d.Key = a.LeafKey }
	}
	foreignDocument, foreignKey := from(foreign)
	impostorDocument, impostorKey := from(impostor.Make())
	renewedDocument, renewedKey := from(renewed.Make())
	return w.cases("root",
		change{name: "root-of-somebody-else", document: foreignDocument, draft: foreignKey},
		change{name: "root-of-the-same-name", document: impostorDocument, draft: impostorKey},
		change{name: "root-of-the-same-key", document: renewedDocument, draft: renewedKey},
		change{name: "root-aws-expected", policy: roots(chain.AWSRoot())},
		change{name: "root-not-in-bundle", document: bundle(b[1:]...)},
		change{name: "bundle-reversed", document: bundle(b[3], b[2], b[1], b[0])},
		change{name: "bundle-root-last", document: bundle(b[1], b[2], b[3], b[0])},
		change{name: "root-expected-is-an-intermediate", policy: roots(b[1])},
		change{name: "root-expected-is-the-leaf", policy: roots(w.authority.Leaf)},
		change{name: "root-with-trailing-byte", document: bundle(append(slices.Clone(b[0]), 0), b[1], b[2], b[3])},
	)
}

// chains begin with an accepted root and are broken above the leaf.
func (w *workshop) chains() []Case {
	bundle := func(b ...[]byte) func(*nitro.Document) { return func(d *nitro.Document) { d.CABundle = b } }
	b := w.authority.CABundle
	at := func(i int, f func(c *Certificate)) func(*Plan) { return func(p *Plan) { f(p.Chain[i]) } }
	flipped := slices.Clone(b[2])
	flipped[len(flipped)-1] ^= 1
	return w.cases("chain",
		change{name: "bundle-swapped", document: bundle(b[0], b[2], b[1], b[3])},
		change{name: "bundle-lacks-one", document: bundle(b[0], b[1], b[3])},
		change{name: "bundle-lacks-last", document: bundle(b[0], b[1], b[2])},
		change{name: "bundle-root-twice", document: bundle(b[0], b[0], b[1], b[2], b[3])},
		change{name: "bundle-one-twice", document: bundle(b[0], b[1], b[1], b[2], b[3])},
		change{name: "bundle-with-leaf", document: bundle(b[0], b[1], b[2], b[3], w.authority.Leaf)},
		change{name: "bundle-with-stranger", document: bundle(b[0], b[1], b[2], NewAuthority("somebody else", w.at).CABundle[3])},
		change{name: "bundle-with-garbage", document: bundle(b[0], []byte("no certificate"), b[2], b[3])},
		change{name: "bundle-with-flipped-bit", document: bundle(b[0], b[1], flipped, b[3])},
		change{name: "bundle-with-trailing-byte", document: bundle(b[0], b[1], append(slices.Clone(b[2]), 0), b[3])},
		change{name: "root-not-authority", plan: at(0, func(c *Certificate) { c.Template.IsCA = false; c.Template.MaxPathLen = 0 })},
		change{name: "root-on-p256", plan: at(0, func(c *Certificate) { c.Key = keyOn(elliptic.P256(), "root") })},
		change{name: "intermediate-not-authority", plan: at(2, func(c *Certificate) { c.Template.IsCA = false; c.Template.MaxPathLen = 0 })},
		change{name: "intermediate-without-constraints", plan: at(2, func(c *Certificate) {
			c.Template.BasicConstraintsValid, c.Template.IsCA, c.Template.MaxPathLen = false, false, 0
		})},
		change{name: "intermediate-may-not-sign", plan: at(2, func(c *Certificate) { c.Template.KeyUsage = x509.KeyUsageDigitalSignature })},
		change{name: "intermediate-without-key-usage", plan: at(2, func(c *Certificate) { c.Template.KeyUsage = 0 })},
		change{name: "intermediate-on-p256", plan: at(2, func(c *Certificate) { c.Key = keyOn(elliptic.P256(), "zonal") })},
		change{name: "intermediate-signed-with-sha256", plan: at(2, func(c *Certificate) { c.Template.SignatureAlgorithm = x509.ECDSAWithSHA256 })},
		change{name: "intermediate-signed-by-another", plan: at(2, func(c *Certificate) {
			c.Issuer = NewPlan("cape tests", w.at).Chain[1]
			c.Issuer.Key = Key("impostor")
		})},
		change{name: "intermediate-names-another-issuer", plan: at(2, func(c *Certificate) {
			c.Issuer = NewPlan("cape tests", w.at).Chain[1]
			c.Issuer.Template.Subject.CommonName = "somebody else"
		})},
		change{name: "path-too-long", plan: at(1, func(c *Certificate) { c.Template.MaxPathLen = 1 })},
		change{name: "path-too-long-zero", plan: at(2, func(c *Certificate) { c.Template.MaxPathLen, c.Template.MaxPathLenZero = 0, true })},
		change{name: "root-path-too-long", plan: at(0, func(c *Certificate) { c.Template.MaxPathLen = 2 })},
		change{name: "unknown-critical-extension", plan: at(2, addExtension(asn1.ObjectIdentifier{1, 2, 3, 4}, []byte{5, 0}))},
		change{name: "name-constraints", plan: at(1, func(c *Certificate) {
			c.Template.PermittedDNSDomainsCritical, c.Template.PermittedDNSDomains = true, []string{"example.org"}
		})},
	)
}

func addExtension(id asn1.ObjectIdentifier, value []byte) func(*Certificate) {
	return func(c *Certificate) {
		c.Template.ExtraExtensions = append(c.Template.ExtraExtensions, pkix.Extension{Id: id, Critical: true, Value: value})
	}
}

// leaves end with a leaf that may not sign documents.
func (w *workshop) leaves() []Case {
	leaf := func(f func(c *Certificate)) func(*Plan) { return func(p *Plan) { f(p.Leaf()) } }
	selfSigned := NewPlan("self-signed", w.at)
	selfSigned.Leaf().Issuer = selfSigned.Leaf()
	foreign := NewAuthority("somebody else", w.at)
	modulus := new(big.Int).SetBytes(fill("modulus", 256))
	return w.cases("chain",
		change{name: "leaf-authority", plan: leaf(func(c *Certificate) {
			c.Template.IsCA, c.Template.MaxPathLen, c.Template.KeyUsage = true, -1, c.Template.KeyUsage|x509.KeyUsageCertSign
		})},
		change{name: "leaf-authority-by-constraints", plan: leaf(func(c *Certificate) { c.Template.IsCA, c.Template.MaxPathLen = true, -1 })},
		change{name: "leaf-authority-by-key-usage", plan: leaf(func(c *Certificate) { c.Template.KeyUsage |= x509.KeyUsageCertSign })},
		change{name: "leaf-may-not-sign", plan: leaf(func(c *Certificate) { c.Template.KeyUsage = x509.KeyUsageKeyAgreement })},
		change{name: "leaf-without-key-usage", plan: leaf(func(c *Certificate) { c.Template.KeyUsage = 0 })},
		change{name: "leaf-on-p256", plan: leaf(func(c *Certificate) { c.PublicKey = keyOn(elliptic.P256(), "leaf").Public() })},
		change{name: "leaf-on-p521", plan: leaf(func(c *Certificate) { c.PublicKey = keyOn(elliptic.P521(), "leaf").Public() })},
		change{name: "leaf-rsa", plan: leaf(func(c *Certificate) {
			c.PublicKey = &rsa.PublicKey{N: modulus.SetBit(modulus, 0, 1), E: 65537}
		})},
		change{name: "leaf-ed25519", plan: leaf(func(c *Certificate) { c.PublicKey = edKey() })},
		change{name: "leaf-unknown-critical-extension", plan: leaf(addExtension(asn1.ObjectIdentifier{1, 2, 3, 4}, []byte{5, 0}))},
		change{name: "leaf-self-signed", document: func(d *nitro.Document) { d.Certificate = selfSigned.Make().Leaf }},
		change{name: "leaf-of-somebody-else", document: func(d *nitro.Document) { d.Certificate = foreign.Leaf },
			draft: func(d *Draft) { d.Key = foreign.LeafKey }},
		change{name: "leaf-is-the-root", document: func(d *nitro.Document) { d.Certificate = d.CABundle[0] }},
		change{name: "leaf-is-an-intermediate", document: func(d *nitro.Document) { d.Certificate = d.CABundle[3] }},
		change{name: "leaf-garbage", document: func(d *nitro.Document) { d.Certificate = []byte("no certificate") }},
	)
}
