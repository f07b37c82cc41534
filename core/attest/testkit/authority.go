package testkit

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/sha256"
	"crypto/sha512"
	"crypto/x509"
	"crypto/x509/pkix"
	"fmt"
	"io"
	"math/big"
	"time"

	"github.com/cape-functions/cape/core/attest/nitro"
)

// Authority is a root with intermediates and a leaf, as an NSM's.
type Authority struct {
	// Root is the root certificate, DER.
	Root []byte
	// CABundle is root and intermediates, DER, in the order of a document.
	CABundle [][]byte
	// Leaf is the leaf certificate, DER.
	Leaf []byte
	// LeafKey signs documents.
	LeafKey *ecdsa.PrivateKey
}

// Certificate is one certificate of a Plan, to be changed before it is made.
type Certificate struct {
	// Template is what will be signed.
	Template *x509.Certificate
	// Key is the certificate's own key.
	Key *ecdsa.PrivateKey
	// PublicKey stands in the certificate instead of Key's when it is not nil.
	PublicKey any
	// Issuer signs it instead of the certificate before it when it is not nil.
	Issuer *Certificate
}

// Plan is the chain of an authority before it is made: root, regional, zonal, instance
// and leaf, with path lengths and validities like AWS's.
type Plan struct {
	Chain []*Certificate
}

// Leaf returns the last certificate.
func (p *Plan) Leaf() *Certificate { return p.Chain[len(p.Chain)-1] }

// Key returns a P-384 key that depends on the name alone. It is no secret.
func Key(name string) *ecdsa.PrivateKey { return keyOn(elliptic.P384(), name) }

func keyOn(curve elliptic.Curve, name string) *ecdsa.PrivateKey {
	digest := sha512.Sum512([]byte("testkit key " + name))
	raw := make([]byte, (curve.Params().BitSize+7)/8)
	copy(raw[len(raw)-min(len(raw), len(digest)):], digest[:])
	return must(ecdsa.ParseRawPrivateKey(curve, raw))
}

// NewPlan plans an authority whose certificates hold at the time at.
func NewPlan(name string, at time.Time) *Plan {
	p := &Plan{}
	for i, c := range []struct {
		name          string
		before, after time.Duration
		pathLen       int
	}{
		{"root", 7 * 365 * 24 * time.Hour, 23 * 365 * 24 * time.Hour, -1},
		{"regional", 10 * 24 * time.Hour, 10 * 24 * time.Hour, 2},
		{"zonal", 3 * 24 * time.Hour, 3 * 24 * time.Hour, 1},
		{"instance", 12 * time.Hour, 12 * time.Hour, 0},
		{"leaf", time.Hour, 2 * time.Hour, -1},
	} {
		p.Chain = append(p.Chain, newCertificate(name, c.name, i, at.Add(-c.before), at.Add(c.after), c.pathLen))
	}
	leaf := p.Leaf().Template
	leaf.IsCA, leaf.MaxPathLen = false, 0
	leaf.KeyUsage = x509.KeyUsageDigitalSignature | x509.KeyUsageContentCommitment
	return p
}

func newCertificate(authority, name string, serial int, from, to time.Time, pathLen int) *Certificate {
	return &Certificate{
		Key: Key(authority + " " + name),
		Template: &x509.Certificate{
			SerialNumber:          big.NewInt(int64(serial) + 1),
			Subject:               pkix.Name{CommonName: name + "." + authority, Organization: []string{"Cape tests"}},
			NotBefore:             from,
			NotAfter:              to,
			BasicConstraintsValid: true,
			IsCA:                  true,
			MaxPathLen:            pathLen,
			MaxPathLenZero:        pathLen == 0,
			KeyUsage:              x509.KeyUsageCertSign | x509.KeyUsageDigitalSignature | x509.KeyUsageCRLSign,
		},
	}
}

// Make signs the certificates and returns the authority.
func (p *Plan) Make() *Authority {
	a := &Authority{LeafKey: p.Leaf().Key}
	for i, c := range p.Chain {
		if c.Issuer == nil {
			c.Issuer = p.Chain[max(i-1, 0)]
		}
		a.CABundle = append(a.CABundle, c.make())
	}
	last := len(a.CABundle) - 1
	a.Root, a.Leaf, a.CABundle = a.CABundle[0], a.CABundle[last], a.CABundle[:last]
	return a
}

func (c *Certificate) make() []byte {
	public := c.PublicKey
	if public == nil {
		public = c.Key.Public()
	}
	id := sha256.Sum256(fmt.Append(nil, c.Template.Subject, c.Template.SerialNumber))
	c.Template.SubjectKeyId = id[:20]
	return must(x509.CreateCertificate(nil, c.Template, c.Issuer.Template, public, steady{c.Issuer.Key}))
}

// steady signs deterministically, so that documents are the same in every run.
type steady struct{ *ecdsa.PrivateKey }

func (k steady) Sign(_ io.Reader, digest []byte, opts crypto.SignerOpts) ([]byte, error) {
	return k.PrivateKey.Sign(nil, digest, opts)
}

// NewAuthority makes an authority whose certificates hold at the time at; the same name
// and time give the same certificates.
func NewAuthority(name string, at time.Time) *Authority { return NewPlan(name, at).Make() }

// Document returns a sound document of the authority at the time at, to be changed and
// given to Sign: 16 PCRs, of which 0 to 4 and 8 are not zero, a public key of 32 bytes,
// user data, and a nonce of 32 bytes.
func (a *Authority) Document(at time.Time) nitro.Document {
	d := nitro.Document{
		ModuleID:    "i-0123456789abcdef0-enc0123456789abcdef",
		Digest:      nitro.DigestSHA384,
		Timestamp:   at.UTC().Truncate(time.Millisecond),
		PCRs:        make(map[int]nitro.PCR),
		Certificate: a.Leaf,
		CABundle:    a.CABundle,
		PublicKey:   fill("public key", 32),
		UserData:    []byte(`{"func_checksum":"ZnMeXM8iZoDdXJih0a1St6TJhphAQtBnLY8xUxMLNKg="}`),
		Nonce:       fill("nonce", 32),
	}
	for i := range 16 {
		d.PCRs[i] = nitro.PCR{}
	}
	for _, i := range []int{0, 1, 2, 3, 4, 8} {
		d.PCRs[i] = PCR(i)
	}
	return d
}

// PCR returns the value that Document puts into register i.
func PCR(i int) nitro.PCR { return nitro.Extend(nitro.PCR{}, fmt.Append(nil, "testkit PCR ", i)) }

// Sign returns doc signed by the leaf. It panics for what nitro.Sign refuses; a Draft makes
// broken documents.
func (a *Authority) Sign(doc nitro.Document) []byte {
	return must(nitro.Sign(doc, a.LeafKey, nil))
}

// fill returns n bytes that depend on the name alone.
func fill(name string, n int) []byte {
	out := make([]byte, 0, n+sha256.Size)
	for i := 0; len(out) < n; i++ {
		block := sha256.Sum256(fmt.Append(nil, name, " ", i))
		out = append(out, block[:]...)
	}
	return out[:n]
}

func must[T any](v T, err error) T {
	if err != nil {
		panic(err) // testkit's inputs are its own
	}
	return v
}
