package testkit

import (
	"crypto/ed25519"
	"crypto/sha256"
	"crypto/x509"
	"time"

	"github.com/cape-functions/cape/core/attest/nitro"
	"github.com/cape-functions/cape/core/attest/policy"
	attestkit "github.com/cape-functions/cape/core/attest/testkit"
	"github.com/cape-functions/cape/core/keypolicy"
	"github.com/cape-functions/cape/core/seal"
	"github.com/cape-functions/cape/core/wire"
)

// Names of the made-up cloud that the enclave runs in.
const (
	Role   = "arn:aws:iam::111122223333:role/cape"
	KMS    = "arn:aws:kms:eu-west-1:111122223333:key/12345678-1234-1234-1234-123456789012"
	Issuer = "https://issuer.example"
)

// Enclave is what answers callers. Tests may change any field before they use it.
type Enclave struct {
	Authority  *attestkit.Authority
	At         time.Time // of its documents
	PCRs       map[int]nitro.PCR
	Config     []byte
	Policy     []byte
	Birth      []byte
	ReceiptKey ed25519.PrivateKey
	TLS        []byte
}

// NewEnclave returns an enclave whose certificates hold at the time at. The same time gives
// the same enclave.
func NewEnclave(at time.Time) *Enclave { return NewEnclaveFor(at, DefaultConfig()) }

// DefaultConfig names Issuer, Role and KMS.
func DefaultConfig() wire.Config {
	signer := sha256.Sum256([]byte("testkit signer"))
	return wire.Config{Trust: wire.Trust{Issuers: []wire.Issuer{{Iss: Issuer, Signer: signer[:]}}, Role: Role},
		KMS: KMS, Limits: wire.DefaultLimits()}
}

// NewEnclaveFor is NewEnclave with a configuration of its own.
func NewEnclaveFor(at time.Time, config wire.Config) *Enclave {
	seed := sha256.Sum256([]byte("testkit receipt key"))
	e := &Enclave{Authority: attestkit.NewAuthority("v2", at), At: at, Config: must(wire.Marshal(config)),
		ReceiptKey: ed25519.NewKeyFromSeed(seed[:])}
	doc := e.Authority.Document(at)
	doc.PCRs[wire.TrustPCR] = must(wire.ExpectedPCR16(config.Trust))
	e.PCRs = doc.PCRs
	e.Policy = must(keypolicy.Render(keypolicy.Params{Partition: "aws", AccountID: "111122223333", Role: config.Trust.Role,
		PCR8: []nitro.PCR{doc.PCRs[8]}, PCR16: doc.PCRs[wire.TrustPCR]}))
	e.Birth = e.Sign(nil, nil, must(keypolicy.Claim(config.KMS, e.Policy)))
	return e
}

// Sign returns a document of this enclave.
func (e *Enclave) Sign(nonce, publicKey, userData []byte) []byte {
	doc := e.Authority.Document(e.At)
	doc.PCRs, doc.Nonce, doc.PublicKey, doc.UserData = e.PCRs, nonce, publicKey, userData
	return e.Authority.Sign(doc)
}

// ReceiptSPKI is the public half of ReceiptKey, as documents carry it.
func (e *Enclave) ReceiptSPKI() []byte { return must(x509.MarshalPKIXPublicKey(e.ReceiptKey.Public())) }

// Answer returns the attest for a session.
func (e *Enclave) Answer(r *seal.Responder) ([]byte, error) {
	claim, err := r.Claim(e.Config, e.Policy, e.TLS)
	if err != nil {
		return nil, err
	}
	return r.Attest(wire.Attest{Document: e.Sign(r.Nonce(), e.ReceiptSPKI(), claim), Config: e.Config, Policy: e.Policy, Birth: e.Birth})
}

// AnswerKey returns the attest for a hello that asks for a Cape Key, which is spki of acct.
func (e *Enclave) AnswerKey(hello, spki, acct []byte) ([]byte, error) {
	h, err := wire.ParseHello(hello)
	if err != nil {
		return nil, err
	}
	claim, err := seal.KeyClaim(h, acct, spki, e.Config, e.Policy, e.TLS)
	if err != nil {
		return nil, err
	}
	a := wire.KeyAttest{Document: e.Sign(h.Nonce, nil, claim), Config: e.Config, Policy: e.Policy, Birth: e.Birth, SPKI: spki}
	return a.Encode()
}

// Accepts is the policy of a verifier that expects this enclave and sent this nonce.
func (e *Enclave) Accepts(nonce []byte) policy.Policy {
	return policy.Policy{Roots: [][]byte{e.Authority.Root}, PCRs: map[int][]nitro.PCR{0: {e.PCRs[0]}}, Nonce: nonce, RequireUserData: true}
}

func must[T any](v T, err error) T {
	if err != nil {
		panic(err) // testkit's inputs are its own
	}
	return v
}
