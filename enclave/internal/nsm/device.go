package nsm

import (
	"fmt"
	"time"

	"github.com/cape-functions/cape/core/attest/nitro"
)

// Limits of a request and an answer in bytes, those of the Linux driver
// (include/uapi/linux/nsm.h).
const (
	MaxRequest = 0x1000
	MaxAnswer  = 0x3000
)

// Transport carries one request to a module and brings back its answer, both CBOR as in
// aws-nitro-enclaves-nsm-api. Implementations are safe for concurrent use, end every
// exchange in bounded time, and return answers of at most MaxAnswer bytes.
type Transport interface {
	Exchange(req []byte) ([]byte, error)
	Close() error
}

// Device is a security module. It is safe for concurrent use. Errors of its methods match
// ErrTransport, ErrAnswer, ErrTooLarge or a Code.
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

// Attest returns a fresh attestation document (COSE_Sign1) that carries what r says.
func (d *Device) Attest(r Request) ([]byte, error) {
	if len(r.Nonce) > nitro.MaxNonce || len(r.UserData) > nitro.MaxUserData || len(r.PublicKey) > nitro.MaxPublicKey {
		return nil, fmt.Errorf("asking for an attestation document: %w", ErrTooLarge)
	}
	var a struct {
		Document []byte `cbor:"document"`
	}
	err := d.call("Attestation", attestationRequest{UserData: r.UserData, Nonce: r.Nonce, PublicKey: r.PublicKey}, &a)
	if err == nil && len(a.Document) == 0 {
		err = fmt.Errorf("%w: an empty document", ErrAnswer)
	}
	if err != nil {
		return nil, fmt.Errorf("asking for an attestation document: %w", err)
	}
	return a.Document, nil
}

// PCR returns the value of register i and whether it is locked.
func (d *Device) PCR(i int) (value nitro.PCR, locked bool, err error) {
	index, err := indexOf(i)
	if err != nil {
		return nitro.PCR{}, false, fmt.Errorf("reading PCR%d: %w", i, err)
	}
	var a struct {
		Lock *bool  `cbor:"lock"`
		Data []byte `cbor:"data"`
	}
	if err = d.call("DescribePCR", indexRequest{index}, &a); err == nil {
		value, err = pcrOf(a.Data)
	}
	if err == nil && a.Lock == nil {
		err = fmt.Errorf("%w: no lock state", ErrAnswer)
	}
	if err != nil {
		return nitro.PCR{}, false, fmt.Errorf("reading PCR%d: %w", i, err)
	}
	return value, *a.Lock, nil
}

// Extend extends data into register i, SHA-384(old || data), and returns the new value.
func (d *Device) Extend(i int, data []byte) (nitro.PCR, error) {
	index, err := indexOf(i)
	if err != nil {
		return nitro.PCR{}, fmt.Errorf("extending PCR%d: %w", i, err)
	}
	var a struct {
		Data []byte `cbor:"data"`
	}
	var value nitro.PCR
	if err = d.call("ExtendPCR", extendRequest{Index: index, Data: data}, &a); err == nil {
		value, err = pcrOf(a.Data)
	}
	if err != nil {
		return nitro.PCR{}, fmt.Errorf("extending PCR%d: %w", i, err)
	}
	return value, nil
}

// Lock makes register i read-only until the enclave ends.
func (d *Device) Lock(i int) error {
	index, err := indexOf(i)
	if err == nil {
		err = d.call("LockPCR", indexRequest{index}, nil)
	}
	if err != nil {
		return fmt.Errorf("locking PCR%d: %w", i, err)
	}
	return nil
}

// Time returns the module's clock, read from a fresh document: the authority on time,
// since the enclave's own clock is the host's to slow down. Who signed the document, and
// how, is for those to judge who do not stand before the module itself.
func (d *Device) Time() (time.Time, error) {
	raw, err := d.Attest(Request{})
	if err != nil {
		return time.Time{}, fmt.Errorf("reading the module's clock: %w", err)
	}
	return TimeOf(raw)
}

func indexOf(i int) (uint16, error) {
	if i < 0 || i >= nitro.MaxPCRs {
		return 0, ErrInvalidIndex
	}
	return uint16(i), nil
}

func pcrOf(data []byte) (nitro.PCR, error) {
	if len(data) != nitro.PCRSize {
		return nitro.PCR{}, fmt.Errorf("%w: a register of %d bytes", ErrAnswer, len(data))
	}
	return nitro.PCR(data), nil
}
