package nsm

import (
	"errors"
	"time"

	"github.com/cape-functions/cape/core/attest/nitro"
)

// Transport carries one request to a module and brings back its answer, both CBOR as in
// aws-nitro-enclaves-nsm-api. Implementations are safe for concurrent use.
type Transport interface {
	Exchange(req []byte) ([]byte, error)
	Close() error
}

// Device is a security module. It is safe for concurrent use.
type Device struct{ t Transport }

// New returns the module behind t, which it takes over.
func New(t Transport) *Device { return &Device{t} }

// Close closes the transport.
func (d *Device) Close() error { return d.t.Close() }

// Request is what an attestation document shall carry. Nil fields are left out.
type Request struct {
	// Nonce is the verifier's, at most 512 bytes.
	Nonce []byte
	// UserData is at most 512 bytes.
	UserData []byte
	// PublicKey is at most 1024 bytes.
	PublicKey []byte
}

// Description is what a module says about itself.
type Description struct {
	// ModuleID names the enclave.
	ModuleID string
	// Version is major, minor, patch.
	Version [3]uint16
	// MaxPCRs is the number of registers.
	MaxPCRs int
	// LockedPCRs are the indexes of the locked registers, ascending.
	LockedPCRs []int
	// Digest is the hash of the registers, always nitro.DigestSHA384.
	Digest string
}

// Attest returns a fresh attestation document (COSE_Sign1) that carries what r says.
func (d *Device) Attest(r Request) ([]byte, error) { return nil, errors.ErrUnsupported }

// PCR returns the value of register i and whether it is locked.
func (d *Device) PCR(i int) (value nitro.PCR, locked bool, err error) {
	return nitro.PCR{}, false, errors.ErrUnsupported
}

// Extend extends data into register i and returns the new value.
func (d *Device) Extend(i int, data []byte) (nitro.PCR, error) {
	return nitro.PCR{}, errors.ErrUnsupported
}

// Lock makes register i read-only until the enclave ends.
func (d *Device) Lock(i int) error { return errors.ErrUnsupported }

// LockRange locks the registers 0 to n-1.
func (d *Device) LockRange(n int) error { return errors.ErrUnsupported }

// Describe returns what the module says about itself.
func (d *Device) Describe() (Description, error) { return Description{}, errors.ErrUnsupported }

// Random returns n bytes of the module's entropy.
func (d *Device) Random(n int) ([]byte, error) { return nil, errors.ErrUnsupported }

// Time returns the module's clock, read from a fresh document: the authority on time,
// since the enclave's own clock is the host's to slow down.
func (d *Device) Time() (time.Time, error) { return time.Time{}, errors.ErrUnsupported }
