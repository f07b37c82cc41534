package testkit

import (
	"crypto/ecdsa"
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

// NewAuthority makes an authority whose certificates hold at the time at; the same name
// and time give the same certificates.
func NewAuthority(name string, at time.Time) *Authority {
	panic("not yet")
}

// Document returns a sound document of the authority at the time at, to be changed and
// given to Sign.
func (a *Authority) Document(at time.Time) nitro.Document {
	panic("not yet")
}

// Sign returns doc signed by the leaf.
func (a *Authority) Sign(doc nitro.Document) []byte {
	panic("not yet")
}
