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

// MaxRandom is how many bytes one GetRandom may bring, in bytes.
const MaxRandom = 256

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

// Description is what a module says about itself.
type Description struct {
	// ModuleID names the enclave.
	ModuleID string
	// Version is major, minor, patch.
	Version [3]uint16
	// MaxPCRs is the number of registers.
	MaxPCRs int
	// LockedPCRs are the indexes of the locked registers, as the module lists them.
	LockedPCRs []int
	// Digest is the hash of the registers, always nitro.DigestSHA384.
	Digest string
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

// LockRange locks the registers 0 to n-1.
func (d *Device) LockRange(n int) error {
	if n < 1 || n > nitro.MaxPCRs {
		return fmt.Errorf("locking %d registers: %w", n, ErrInvalidIndex)
	}
	if err := d.call("LockPCRs", rangeRequest{uint16(n)}, nil); err != nil {
		return fmt.Errorf("locking %d registers: %w", n, err)
	}
	return nil
}

// Describe returns what the module says about itself.
func (d *Device) Describe() (Description, error) {
	var a struct {
		Major    uint16   `cbor:"version_major"`
		Minor    uint16   `cbor:"version_minor"`
		Patch    uint16   `cbor:"version_patch"`
		ModuleID string   `cbor:"module_id"`
		MaxPCRs  uint16   `cbor:"max_pcrs"`
		Locked   []uint16 `cbor:"locked_pcrs"`
		Digest   string   `cbor:"digest"`
	}
	if err := d.call("DescribeNSM", nil, &a); err != nil {
		return Description{}, fmt.Errorf("asking the module to describe itself: %w", err)
	}
	out := Description{ModuleID: a.ModuleID, Version: [3]uint16{a.Major, a.Minor, a.Patch}, MaxPCRs: int(a.MaxPCRs), Digest: a.Digest}
	if a.Digest != nitro.DigestSHA384 || a.MaxPCRs == 0 || a.MaxPCRs > nitro.MaxPCRs {
		return Description{}, fmt.Errorf("asking the module to describe itself: %w: %d registers of %q", ErrAnswer, a.MaxPCRs, a.Digest)
	}
	for _, i := range a.Locked {
		if i >= a.MaxPCRs {
			return Description{}, fmt.Errorf("asking the module to describe itself: %w: PCR%d is locked but does not exist", ErrAnswer, i)
		}
		out.LockedPCRs = append(out.LockedPCRs, int(i))
	}
	return out, nil
}

// Random returns n bytes of the module's entropy, asking as often as it takes.
func (d *Device) Random(n int) ([]byte, error) {
	out := make([]byte, 0, max(n, 0))
	for len(out) < n {
		var a struct {
			Random []byte `cbor:"random"`
		}
		err := d.call("GetRandom", nil, &a)
		if err == nil && (len(a.Random) == 0 || len(a.Random) > MaxRandom) {
			err = fmt.Errorf("%w: %d random bytes", ErrAnswer, len(a.Random))
		}
		if err != nil {
			return nil, fmt.Errorf("asking for entropy: %w", err)
		}
		out = append(out, a.Random[:min(len(a.Random), n-len(out))]...)
	}
	return out, nil
}

// Time returns the module's clock, read from a fresh document: the authority on time,
// since the enclave's own clock is the host's to slow down. Who signed the document, and
// how, is for those to judge who do not stand before the module itself.
func (d *Device) Time() (time.Time, error) {
	raw, err := d.Attest(Request{})
	if err != nil {
		return time.Time{}, fmt.Errorf("reading the module's clock: %w", err)
	}
	t, err := timestampOf(raw)
	if err != nil {
		return time.Time{}, fmt.Errorf("reading the module's clock: %w: %w", ErrAnswer, err)
	}
	return t, nil
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
