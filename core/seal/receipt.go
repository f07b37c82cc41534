package seal

import (
	"bytes"
	"crypto/ed25519"
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"errors"
	"fmt"
	"time"

	"github.com/cape-functions/cape/core/attest"
	"github.com/cape-functions/cape/core/wire"
)

// ErrReceipt: a receipt is malformed, not signed by the attested key, of another session, or
// not the next of its chain.
var ErrReceipt = errors.New("receipt does not hold")

const receiptAAD = "cape v2 receipt"

// protectedEdDSA is the COSE header {1: -8}, the only one that is written or taken.
var protectedEdDSA = []byte{0xa1, 0x01, 0x27}

// coseSign1 is a COSE_Sign1 (RFC 9052, 4.2), untagged, with an empty unprotected header.
type coseSign1 struct {
	_           struct{} `cbor:",toarray"`
	Protected   []byte
	Unprotected map[string]bool
	Payload     []byte
	Signature   []byte
}

// toBeSigned is the Sig_structure of RFC 9052, 4.4.
func toBeSigned(payload []byte) ([]byte, error) {
	return wire.Marshal([]any{"Signature1", protectedEdDSA, []byte(receiptAAD), payload})
}

// Notary writes the receipts of one session. Each names the one before it, so it is to be
// used by one goroutine, in the order of the results.
type Notary struct {
	key   ed25519.PrivateKey
	nonce []byte
	route string
	doc   []byte
	prev  []byte
}

// NewNotary begins the chain of the session that r answered: key is the receipt key of its
// document. It needs r.Attest to have been called.
func NewNotary(r *Responder, key ed25519.PrivateKey) (*Notary, error) {
	if r.message == nil {
		return nil, ErrOrder
	}
	return &Notary{key: key, nonce: r.request.Nonce, route: r.request.Route, doc: r.doc}, nil
}

// Sign returns the receipt of one invocation and the openings of its commitments. At is the
// security module's time.
func (n *Notary) Sign(id uint64, sums wire.Checksums, at time.Time) ([]byte, wire.Openings, error) {
	openings := wire.Openings{In: make([]byte, 32), Out: make([]byte, 32)}
	rand.Read(openings.In)
	rand.Read(openings.Out)
	receipt := wire.Receipt{V: 2, Fn: sums.Function, In: commitment(openings.In, sums.Input), Out: commitment(openings.Out, sums.Output),
		Nonce: n.nonce, Route: n.route, ID: id, Prev: n.prev, Time: uint64(max(at.UnixMilli(), 0)), Doc: n.doc}
	payload, err := receipt.Encode()
	if err != nil {
		return nil, wire.Openings{}, err
	}
	signed, err := toBeSigned(payload)
	if err != nil {
		return nil, wire.Openings{}, err
	}
	raw, err := wire.Marshal(coseSign1{Protected: protectedEdDSA, Unprotected: map[string]bool{}, Payload: payload,
		Signature: ed25519.Sign(n.key, signed)})
	if err != nil {
		return nil, wire.Openings{}, err
	}
	n.prev = hashOf(payload)
	return raw, openings, nil
}

// commitment is HMAC-SHA-256 under key of a SHA-256.
func commitment(key, sum []byte) []byte {
	mac := hmac.New(sha256.New, key)
	mac.Write(sum)
	return mac.Sum(nil)
}

// Receipt is a receipt whose signature holds.
type Receipt struct {
	wire.Receipt
	// Hash is the SHA-256 of its payload, by which the next one names it.
	Hash [32]byte
}

// VerifyReceipt checks a receipt against the verified document of its session. A document
// whose nonce nobody remembers was verified with NonceNotChecked, and the receipt's nonce is
// compared with the document's. Errors match ErrReceipt.
func VerifyReceipt(raw []byte, evidence *attest.Evidence) (*Receipt, error) {
	key, err := receiptKey(evidence.Document.PublicKey)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrReceipt, err)
	}
	if _, err := wire.ParseSessionClaim(evidence.Document.UserData); err != nil {
		return nil, fmt.Errorf("%w: %w", ErrReceipt, err)
	}
	return verifyReceipt(raw, key, hashOf(evidence.Raw), evidence.Document.Nonce)
}

func verifyReceipt(raw []byte, key ed25519.PublicKey, doc, nonce []byte) (*Receipt, error) {
	var c coseSign1
	if err := wire.Unmarshal(raw, wire.MaxReceipt, &c); err != nil {
		return nil, fmt.Errorf("%w: %w", ErrReceipt, err)
	}
	if !bytes.Equal(c.Protected, protectedEdDSA) || c.Unprotected == nil || len(c.Unprotected) != 0 {
		return nil, fmt.Errorf("%w: it is not signed as receipts are", ErrReceipt)
	}
	signed, err := toBeSigned(c.Payload)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrReceipt, err)
	}
	if !ed25519.Verify(key, signed, c.Signature) {
		return nil, fmt.Errorf("%w: the attested key did not sign it", ErrReceipt)
	}
	payload, err := wire.ParseReceipt(c.Payload)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrReceipt, err)
	}
	if !bytes.Equal(payload.Doc, doc) || !bytes.Equal(payload.Nonce, nonce) {
		return nil, fmt.Errorf("%w: it is of another session than the document", ErrReceipt)
	}
	return &Receipt{Receipt: *payload, Hash: sha256.Sum256(c.Payload)}, nil
}

// OpensInput tells whether key, from the openings, opens the receipt for an input with this
// SHA-256.
func (r *Receipt) OpensInput(key []byte, sum [32]byte) bool { return opens(r.In, key, sum) }

// OpensOutput is OpensInput for the output.
func (r *Receipt) OpensOutput(key []byte, sum [32]byte) bool { return opens(r.Out, key, sum) }

func opens(committed, key []byte, sum [32]byte) bool {
	return len(key) == 32 && hmac.Equal(committed, commitment(key, sum[:]))
}

// Auditor verifies the receipts of one session as they come. It is not safe for concurrent
// use.
type Auditor struct {
	session *Attested
	prev    []byte
}

// NewAuditor begins with the first receipt of a session that Caller.Bind attested.
func NewAuditor(session *Attested) *Auditor { return &Auditor{session: session} }

// Check verifies the next result: the receipt is signed by the attested key, is of this
// session, of r.ID and next in the chain, and commits to the given sums, which the caller
// took of what it sent, expected and received. Errors match ErrReceipt.
func (a *Auditor) Check(r *wire.Result, input, function, output [32]byte) (*Receipt, error) {
	got, err := VerifyReceipt(r.Receipt, a.session.Evidence)
	if err != nil {
		return nil, err
	}
	c := r.Checksums
	switch {
	case got.Route != a.session.Route || got.ID != r.ID:
		return nil, fmt.Errorf("%w: it is of another invocation", ErrReceipt)
	case !bytes.Equal(got.Prev, a.prev):
		return nil, fmt.Errorf("%w: it is not the next of its session", ErrReceipt)
	case !bytes.Equal(c.Input, input[:]) || !bytes.Equal(c.Function, function[:]) || !bytes.Equal(c.Output, output[:]) || !bytes.Equal(got.Fn, function[:]):
		return nil, fmt.Errorf("%w: it is of another input, function or output", ErrReceipt)
	case !got.OpensInput(r.Openings.In, input) || !got.OpensOutput(r.Openings.Out, output):
		return nil, fmt.Errorf("%w: its openings do not open it", ErrReceipt)
	}
	a.prev = got.Hash[:]
	return got, nil
}
