package envelope

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
	Name   string   // ToName: 1 to MaxNameSize bytes of UTF-8
}

// MaxNameSize is the longest function name in a header, in bytes.
const MaxNameSize = 256

// ForFunction names the function whose zip has this SHA-256.
func ForFunction(checksum [32]byte) To { return To{Kind: ToFunction, Digest: checksum} }

// ForName names the function of this name of this account.
func ForName(account [32]byte, name string) To { return To{Kind: ToName, Digest: account, Name: name} }

// ForOwner names nobody: it opens under the owner's own authority alone.
func ForOwner() To { return To{} }
