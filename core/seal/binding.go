package seal

import (
	"bytes"
	"crypto/ed25519"
	"crypto/sha256"
	"crypto/x509"
	"fmt"

	"github.com/cape-functions/cape/core/attest"
	"github.com/cape-functions/cape/core/attest/nitro"
	"github.com/cape-functions/cape/core/keypolicy"
	"github.com/cape-functions/cape/core/wire"
)

// Attested is what a verified document says about the enclave of a session.
type Attested struct {
	Evidence *attest.Evidence
	// Config is what the enclave runs under; its Trust is measured into PCR16.
	Config *wire.Config
	// KMS is the ARN of the KEK, born inside an enclave with exactly Policy.
	KMS    string
	Policy []byte
	// Admits is Policy, read: the images whose enclaves the KEK opens for. Whether they are
	// acceptable is the caller's to say.
	Admits keypolicy.Params
	// TLS is SHA-256 of the SPKI of the enclave's own TLS key, nil without one.
	TLS []byte
	// ReceiptKey signs receipts; nil for a Cape Key.
	ReceiptKey ed25519.PublicKey
	// Nonce and Route are the caller's own.
	Nonce []byte
	Route string
}

// AttestedKey is a Cape Key that a verified document vouches for. Acct is nil for the legacy
// key of a user without an account, which the host's identity provider could act as.
type AttestedKey struct {
	Attested
	SPKI []byte
	Acct []byte
}

// binding is what session and key documents have in common.
type binding struct {
	document, config, policy, birth      []byte
	nonce, claimPolicy, claimConfig, tls []byte
	births                               *keypolicy.Births
}

func (b *binding) check(evidence *attest.Evidence, roots [][]byte) (*Attested, error) {
	switch {
	case !bytes.Equal(evidence.Raw, b.document):
		return nil, fmt.Errorf("%w: another document was verified", ErrBinding)
	case !bytes.Equal(evidence.Document.Nonce, b.nonce):
		return nil, fmt.Errorf("%w: its nonce is another", ErrBinding)
	case !isHash(b.claimPolicy, b.policy):
		return nil, fmt.Errorf("%w: its key policy is another", ErrBinding)
	case !isHash(b.claimConfig, b.config):
		return nil, fmt.Errorf("%w: its configuration is another", ErrBinding)
	}
	config, err := wire.ParseConfig(b.config)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrTrust, err)
	}
	admits, err := b.checkKey(evidence, config, roots)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrTrust, err)
	}
	return &Attested{Evidence: evidence, Config: config, KMS: config.KMS, Policy: b.policy, Admits: admits, TLS: b.tls, Nonce: bytes.Clone(b.nonce)}, nil
}

// checkKey holds the enclave's registers, its configuration, its key's policy and the key's
// birth against each other.
func (b *binding) checkKey(evidence *attest.Evidence, config *wire.Config, roots [][]byte) (p keypolicy.Params, err error) {
	want, err := wire.ExpectedPCR16(config.Trust)
	if err != nil {
		return p, err
	}
	if got, ok := evidence.Document.PCRs[wire.TrustPCR]; !ok || got != nitro.PCR(want) {
		return p, fmt.Errorf("PCR16 is not that of the trust in its configuration")
	}
	if len(b.policy) == 0 {
		return p, fmt.Errorf("it has not inspected its key yet: try again in a moment")
	}
	if p, err = b.births.Check(b.birth, config.KMS, b.policy, roots...); err != nil {
		return p, err
	}
	if p.PCR16 != nitro.PCR(want) || p.Role != config.Trust.Role {
		return p, fmt.Errorf("its key's policy is for another trust")
	}
	return p, nil
}

// receiptKey reads the Ed25519 key of a session's document: an SPKI of 44 bytes (RFC 8410).
func receiptKey(spki []byte) (ed25519.PublicKey, error) {
	parsed, err := x509.ParsePKIXPublicKey(spki)
	if err != nil {
		return nil, fmt.Errorf("%w: it holds no receipt key", ErrBinding)
	}
	key, ok := parsed.(ed25519.PublicKey)
	if !ok {
		return nil, fmt.Errorf("%w: its receipt key is not Ed25519", ErrBinding)
	}
	return key, nil
}

func isHash(sum, of []byte) bool {
	want := sha256.Sum256(of)
	return bytes.Equal(sum, want[:])
}
