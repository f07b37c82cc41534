package chain

import (
	"crypto/ecdsa"

	"github.com/cape-functions/cape/core/attest/nitro"
)

// MaxRemembered is the bound of a Verifier's memory.
const MaxRemembered = maxRemembered

// Remember and Recalls reach the memory by any id.
func (v *Verifier) Remember(id [32]byte) { v.remember(id, &verified{}) }

// Recalls: see Remember.
func (v *Verifier) Recalls(id [32]byte) bool { return v.recall(id) != nil }

// Remembered counts what is in memory, by both of its records.
func (v *Verifier) Remembered() (seen, order int) { return len(v.seen), len(v.order) }

// Replace puts another key into what is remembered of a document's chain.
func (v *Verifier) Replace(s *nitro.Signed, key *ecdsa.PublicKey) {
	id := identify(&s.Document)
	v.seen[id] = &verified{chain: v.seen[id].chain, key: key}
}
