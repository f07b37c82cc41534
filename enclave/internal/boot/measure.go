package boot

import (
	"errors"
	"fmt"

	"github.com/cape-functions/cape/core/attest/nitro"
	"github.com/cape-functions/cape/core/wire"
)

// ErrRegisters: the registers are not as a fresh enclave's.
var ErrRegisters = errors.New("registers are not as they must be")

// registers are those of the security module.
type registers interface {
	PCR(i int) (value nitro.PCR, locked bool, err error)
	Extend(i int, data []byte) (nitro.PCR, error)
	Lock(i int) error
}

// measure extends PCR16 with the trust and locks PCR16-31, so that nothing that runs later
// can make the enclave look as if it trusted others. It believes what it reads back.
func measure(r registers, t wire.Trust) error {
	m, err := wire.TrustMeasurement(t)
	if err != nil {
		return fmt.Errorf("measuring trust: %w", err)
	}
	want, err := wire.ExpectedPCR16(t)
	if err != nil {
		return fmt.Errorf("measuring trust: %w", err)
	}
	for i := wire.TrustPCR; i < nitro.MaxPCRs; i++ {
		value, locked, err := r.PCR(i)
		if err != nil {
			return fmt.Errorf("measuring trust: %w", err)
		}
		if !value.IsZero() || locked {
			return fmt.Errorf("measuring trust: %w: PCR%d was extended or locked before", ErrRegisters, i)
		}
	}
	if _, err := r.Extend(wire.TrustPCR, m[:]); err != nil {
		return fmt.Errorf("measuring trust: %w", err)
	}
	for i := wire.TrustPCR; i < nitro.MaxPCRs; i++ {
		if err := r.Lock(i); err != nil {
			return fmt.Errorf("measuring trust: %w", err)
		}
	}
	return verifyLocked(r, want)
}

func verifyLocked(r registers, want nitro.PCR) error {
	for i := wire.TrustPCR; i < nitro.MaxPCRs; i++ {
		value, locked, err := r.PCR(i)
		switch {
		case err != nil:
			return fmt.Errorf("measuring trust: %w", err)
		case !locked:
			return fmt.Errorf("measuring trust: %w: PCR%d is not locked", ErrRegisters, i)
		case i == wire.TrustPCR && value != want, i != wire.TrustPCR && !value.IsZero():
			return fmt.Errorf("measuring trust: %w: PCR%d has another value", ErrRegisters, i)
		}
	}
	return nil
}
