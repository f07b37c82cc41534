package nitro

import (
	"crypto/sha512"
	"encoding/hex"
	"fmt"
)

// PCRSize is the length of a PCR in bytes: SHA-384, the only digest of an NSM.
const PCRSize = 48

// MaxPCRs is the number of PCRs of an NSM; indexes are 0 to MaxPCRs-1.
const MaxPCRs = 32

// PCR is the value of one platform configuration register.
type PCR [PCRSize]byte

// String returns the value as 96 lower-case hexadecimal digits.
func (p PCR) String() string { return hex.EncodeToString(p[:]) }

// IsZero tells whether every byte is zero, as in PCR0-2 of an enclave in debug mode.
func (p PCR) IsZero() bool { return p == PCR{} }

// MarshalText implements [encoding.TextMarshaler] with the form of String.
func (p PCR) MarshalText() ([]byte, error) { return []byte(p.String()), nil }

// UnmarshalText implements [encoding.TextUnmarshaler]; it takes what ParsePCR takes.
func (p *PCR) UnmarshalText(text []byte) error {
	v, err := ParsePCR(string(text))
	if err != nil {
		return err
	}
	*p = v
	return nil
}

// ParsePCR reads 96 hexadecimal digits of either case. Errors match ErrPCRFormat.
func ParsePCR(s string) (PCR, error) {
	var p PCR
	if len(s) != 2*PCRSize {
		return PCR{}, fmt.Errorf("%w: %d characters, a PCR has %d hexadecimal digits", ErrPCRFormat, len(s), 2*PCRSize)
	}
	if _, err := hex.Decode(p[:], []byte(s)); err != nil {
		return PCR{}, fmt.Errorf("%w: %w", ErrPCRFormat, err)
	}
	return p, nil
}

// Extend returns the PCR after data was extended into it: SHA-384(old || data).
// The NSM extends raw data; image measurement extends the SHA-384 of a part into zero.
func Extend(old PCR, data []byte) PCR {
	h := sha512.New384()
	h.Write(old[:])
	h.Write(data)
	return PCR(h.Sum(nil))
}
