package keypolicy

import (
	"bytes"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/cape-functions/cape/core/attest"
	"github.com/cape-functions/cape/core/attest/chain"
	"github.com/cape-functions/cape/core/attest/nitro"
	"github.com/cape-functions/cape/core/attest/policy"
	"github.com/cape-functions/cape/core/wire"
)

// Registers that a policy names.
const (
	pcrImage     = 0
	pcrPublisher = 8
	pcrTrust     = wire.TrustPCR
)

// What a birth claim says beside key and policy.
const (
	birthVersion = 2
	birthUse     = "kek"
)

// Claim returns the user data of the birth document for the KEK arn with the exact policy
// text: deterministic CBOR of wire.BirthClaim.
func Claim(arn string, policy []byte) ([]byte, error) {
	sum := sha256.Sum256(policy)
	return wire.Marshal(wire.BirthClaim{V: birthVersion, Use: birthUse, KMS: arn, Policy: sum[:]})
}

// ErrBirth is matched by errors of CheckBirth.
var ErrBirth = errors.New("birth document is not acceptable")

// CheckBirth verifies the birth document of the KEK arn with the exact policy text, at
// the document's own time: an enclave that the policy is for attested to key and policy.
// Roots are DER; none means AWS's root alone. Errors match ErrBirth.
func CheckBirth(doc []byte, arn string, policy []byte, roots ...[]byte) error {
	_, err := (*Births)(nil).Check(doc, arn, policy, roots...)
	return err
}

// maxBirths bounds what Births remembers, some KiB each at most. A client meets one or two
// platforms; an image's next key is another.
const maxBirths = 64

// Births checks birth documents and remembers those that are good, whose every part is the
// same at the next session: the outcome depends on no clock. The zero value is ready; a nil
// one works and remembers nothing. It is safe for concurrent use.
type Births struct {
	mu   sync.Mutex
	good map[[32]byte]Params
}

// Check is CheckBirth, and returns what the policy says. Its slices are shared: read only.
func (b *Births) Check(doc []byte, arn string, policy []byte, roots ...[]byte) (Params, error) {
	id := identify(doc, arn, policy, roots)
	if p, ok := b.recall(id); ok {
		return p, nil
	}
	p, err := checkBirth(doc, arn, policy, roots)
	if err != nil {
		return Params{}, fmt.Errorf("%w: %w", ErrBirth, err)
	}
	b.remember(id, p)
	return p, nil
}

// identify hashes all that the outcome of checkBirth depends on.
func identify(doc []byte, arn string, policy []byte, roots [][]byte) [32]byte {
	h := sha256.New()
	for _, part := range append([][]byte{doc, []byte(arn), policy}, roots...) {
		h.Write(binary.BigEndian.AppendUint32(nil, uint32(len(part))))
		h.Write(part)
	}
	return [32]byte(h.Sum(nil))
}

func (b *Births) recall(id [32]byte) (Params, bool) {
	if b == nil {
		return Params{}, false
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	p, ok := b.good[id]
	return p, ok
}

func (b *Births) remember(id [32]byte, p Params) {
	if b == nil {
		return
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.good == nil || len(b.good) >= maxBirths {
		b.good = make(map[[32]byte]Params)
	}
	b.good[id] = p
}

func checkBirth(doc []byte, arn string, text []byte, roots [][]byte) (p Params, err error) {
	partition, _, account, ok := ParseKey(arn)
	if !ok {
		return p, fmt.Errorf("%q is not the full ARN of a single-Region key", arn)
	}
	if p, err = Parse(text); err != nil {
		return p, err
	}
	if p.Partition != partition || p.AccountID != account {
		return p, fmt.Errorf("key and role are of different accounts")
	}
	if len(roots) == 0 {
		roots = [][]byte{chain.AWSRoot()}
	}
	accept := policy.Policy{
		Roots: roots, PCRs: map[int][]nitro.PCR{pcrPublisher: p.PCR8, pcrTrust: {p.PCR16}},
		// It was made for whoever reads it later, so nobody's nonce is in it.
		NonceNotChecked: true, TimeFromDocument: true, RequireUserData: true,
	}
	if len(p.PCR0) > 0 {
		accept.PCRs[pcrImage] = p.PCR0
	}
	evidence, err := attest.Verify(nil, doc, accept, time.Time{})
	if err != nil {
		return p, err
	}
	var claim wire.BirthClaim
	if err := wire.Unmarshal(evidence.Document.UserData, wire.MaxUserData, &claim); err != nil {
		return p, err
	}
	sum := sha256.Sum256(text)
	switch {
	case claim.V != birthVersion || claim.Use != birthUse:
		return p, fmt.Errorf("it is for another use, %q", claim.Use)
	case claim.KMS != arn:
		return p, fmt.Errorf("it is for another key, %q", claim.KMS)
	case !bytes.Equal(claim.Policy, sum[:]):
		return p, fmt.Errorf("it is for another policy")
	case len(evidence.Document.PublicKey) != 0:
		return p, fmt.Errorf("it holds a public key: it was made for something else")
	}
	return p, nil
}
