package chain

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/sha256"
	"crypto/sha512"
	_ "embed"
	"encoding/binary"
	"errors"
	"fmt"
	"math/big"
	"slices"
	"sync"
	"time"

	"github.com/cape-functions/cape/core/attest/nitro"
)

// AWSRootSHA256 is the SHA-256 of AWSRoot in lower-case hexadecimal, as published at
// https://docs.aws.amazon.com/enclaves/latest/user/verify-root.html.
const AWSRootSHA256 = "641a0321a3e244efe456463195d606317ed7cdcc3c1756e09893f3c68f79bb5b"

// maxRemembered bounds the chains that a Verifier remembers, under 1 KiB each. A host
// runs tens of enclaves, and each gets a new leaf every few hours.
const maxRemembered = 256

//go:embed aws-nitro-root-g1.der
var awsRoot []byte

var (
	// ErrRoot: the chain does not begin with an accepted root.
	ErrRoot = errors.New("unknown root certificate")
	// ErrChain: the certificates do not form a proper chain.
	ErrChain = errors.New("invalid certificate chain")
	// ErrTime: a certificate is expired or not yet valid at the time of the check.
	ErrTime = errors.New("not valid at this time")
	// ErrSignature: the document was not signed by the leaf's key.
	ErrSignature = errors.New("invalid signature")
)

// AWSRoot returns a copy of the root certificate of AWS Nitro Enclaves, G1, DER.
func AWSRoot() []byte { return slices.Clone(awsRoot) }

// Chain is what a verified chain says.
type Chain struct {
	// Root is the SHA-256 of the root certificate's DER.
	Root [32]byte
	// Leaf is the SHA-256 of the leaf certificate's DER.
	Leaf [32]byte
	// NotBefore and NotAfter bound the time in which every certificate is valid.
	NotBefore, NotAfter time.Time
}

// verified is a chain whose certificates were checked, whatever the time, and the key of
// its leaf. It is never changed once made.
type verified struct {
	chain Chain
	key   *ecdsa.PublicKey
}

// Verifier verifies chains and remembers those it verified, so that the second document
// of an enclave costs one signature. It is safe for concurrent use and bounded. The zero
// value is ready; a nil Verifier works and remembers nothing.
type Verifier struct {
	mu    sync.Mutex
	seen  map[[32]byte]*verified
	order [][32]byte // oldest first from next on, once it is full
	next  int
}

// New returns a Verifier that remembers nothing yet.
func New() *Verifier { return &Verifier{} }

// Verify checks that the document was signed by a leaf whose chain begins with one of
// roots (DER, compared by content) and holds at the time at. It stops at the first
// failure; errors match ErrRoot, ErrChain, ErrTime or ErrSignature, in this order.
func (v *Verifier) Verify(s *nitro.Signed, roots [][]byte, at time.Time) (Chain, error) {
	d := &s.Document
	if !pinned(roots, d.CABundle) {
		return Chain{}, fmt.Errorf("%w: the chain begins with none of the %d accepted", ErrRoot, len(roots))
	}
	id := identify(d)
	c := v.recall(id)
	known := c != nil
	if !known {
		var err error
		if c, err = verifyCertificates(d.CABundle, d.Certificate); err != nil {
			return Chain{}, fmt.Errorf("%w: %w", ErrChain, err)
		}
	}
	if at.Before(c.chain.NotBefore) || at.After(c.chain.NotAfter) {
		return Chain{}, fmt.Errorf("%w: certificates are valid from %s to %s, checked at %s", ErrTime,
			c.chain.NotBefore.UTC().Format(time.RFC3339), c.chain.NotAfter.UTC().Format(time.RFC3339),
			at.UTC().Format(time.RFC3339))
	}
	if !known {
		v.remember(id, c)
	}
	if !verifySignature(s, c.key) {
		return Chain{}, fmt.Errorf("%w: not made by the key of the leaf certificate", ErrSignature)
	}
	return c.chain, nil
}

// pinned tells whether the bundle begins with one of roots, by content: a name or a key
// identifier can be anybody's.
func pinned(roots, bundle [][]byte) bool {
	return len(bundle) > 0 && len(bundle[0]) > 0 && slices.ContainsFunc(roots, func(root []byte) bool {
		return bytes.Equal(root, bundle[0])
	})
}

// identify hashes all that the outcome of verifyCertificates depends on, root included.
func identify(d *nitro.Document) [32]byte {
	h := sha256.New()
	for _, der := range append(slices.Clip(d.CABundle), d.Certificate) {
		h.Write(binary.BigEndian.AppendUint32(nil, uint32(len(der))))
		h.Write(der)
	}
	return [32]byte(h.Sum(nil))
}

func (v *Verifier) recall(id [32]byte) *verified {
	if v == nil {
		return nil
	}
	v.mu.Lock()
	defer v.mu.Unlock()
	return v.seen[id]
}

// remember keeps c, in the place of the oldest when there is no room.
func (v *Verifier) remember(id [32]byte, c *verified) {
	if v == nil {
		return
	}
	v.mu.Lock()
	defer v.mu.Unlock()
	if _, ok := v.seen[id]; ok {
		return
	}
	if v.seen == nil {
		v.seen = make(map[[32]byte]*verified)
	}
	if len(v.order) < maxRemembered {
		v.order = append(v.order, id)
	} else {
		delete(v.seen, v.order[v.next])
		v.order[v.next] = id
		v.next = (v.next + 1) % maxRemembered
	}
	v.seen[id] = c
}

// verifySignature checks r || s, 48 bytes each. Zero and too large numbers fail.
func verifySignature(s *nitro.Signed, key *ecdsa.PublicKey) bool {
	if len(s.Signature) != nitro.SignatureSize {
		return false
	}
	digest := sha512.Sum384(s.SignedBytes())
	half := nitro.SignatureSize / 2
	r := new(big.Int).SetBytes(s.Signature[:half])
	return ecdsa.Verify(key, digest[:], r, new(big.Int).SetBytes(s.Signature[half:]))
}
