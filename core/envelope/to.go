package envelope

import (
	"fmt"

	"github.com/cape-functions/cape/core/wire"
)

// ToKind says what an envelope names as its recipient.
type ToKind int

// The kinds of recipient.
const (
	// ToOwner names nobody ("to": null): opens only for the key's owner.
	ToOwner ToKind = iota
	// ToFunction names the checksum of one function's zip.
	ToFunction
	// ToName names a function by its owner's account and its name.
	ToName
)

// To is the one recipient that may see the plaintext. Values compare with ==;
// the zero value is ToOwner.
type To struct {
	Kind   ToKind
	Digest [32]byte // ToFunction: SHA-256 of the zip; ToName: the account
	Name   string   // ToName: a function name, as wire.ValidFunctionName has it
	Seq    uint64   // ToName: the earliest version that may see it, a manifest's seq; 0: every one
}

// ForFunction names the function whose zip has this SHA-256.
func ForFunction(checksum [32]byte) To { return To{Kind: ToFunction, Digest: checksum} }

// ForName names the function of this name of this account.
func ForName(account [32]byte, name string) To {
	return To{Kind: ToName, Digest: account, Name: name}
}

// Since is t for the versions from seq on. Only what ForName makes has versions.
func (t To) Since(seq uint64) To {
	t.Seq = seq
	return t
}

// ForOwner names nobody: it opens under the owner's own authority alone.
func ForOwner() To { return To{} }

// toField is "to" in a header, if it is not null.
type toField struct {
	Fn   []byte  `cbor:"fn,omitempty"`
	Acct []byte  `cbor:"acct,omitempty"`
	Name string  `cbor:"name,omitempty"`
	Seq  *uint64 `cbor:"seq,omitempty"`
}

// field gives t its place in a header. Error: ErrTo.
func (t To) field() (*toField, error) {
	switch {
	case t == To{}:
		return nil, nil
	case t.Kind == ToFunction && t.Name == "" && t.Seq == 0:
		return &toField{Fn: t.Digest[:]}, nil
	case t.Kind == ToName && wire.ValidFunctionName(t.Name):
		f := &toField{Acct: t.Digest[:], Name: t.Name}
		if t.Seq > 0 {
			f.Seq = &t.Seq
		}
		return f, nil
	}
	return nil, fmt.Errorf("%w: kind %d, name %q, version %d", ErrTo, t.Kind, t.Name, t.Seq)
}

// to reads a header's field back. Error: ErrFormat.
func (f *toField) to() (To, error) {
	switch {
	case f == nil:
		return ForOwner(), nil
	case len(f.Fn) == 32 && f.Acct == nil && f.Name == "" && f.Seq == nil:
		return ForFunction([32]byte(f.Fn)), nil
	case f.Fn == nil && len(f.Acct) == 32 && wire.ValidFunctionName(f.Name):
		to := ForName([32]byte(f.Acct), f.Name)
		if f.Seq == nil {
			return to, nil
		}
		if *f.Seq > 0 { // 0 is left out
			return to.Since(*f.Seq), nil
		}
	}
	return To{}, fmt.Errorf(`%w: its "to" names no recipient`, ErrFormat)
}
