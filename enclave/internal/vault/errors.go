package vault

import (
	"errors"
	"fmt"
)

var (
	// ErrNotFound: the host has no such function or key.
	ErrNotFound = errors.New("there is none")
	// ErrUnavailable: the host or KMS cannot be reached, or took too long.
	ErrUnavailable = errors.New("storage or key service is not available")
	// ErrNoRoom: the enclave has no memory left for the function.
	ErrNoRoom = errors.New("no room for the function in the enclave")
	// ErrCorrupt is matched by every refusal of what the host served.
	ErrCorrupt = errors.New("stored data is not what was stored")
)

// Refusals, by what was wrong. Each matches ErrCorrupt as well.
var (
	// ErrHead: a record is malformed or too large.
	ErrHead = corrupt("malformed record")
	// ErrManifest: the manifest is malformed.
	ErrManifest = corrupt("malformed manifest")
	// ErrWrongID: the record's manifest is that of another function.
	ErrWrongID = corrupt("manifest of another function")
	// ErrWrongName: the manifest has another name than was asked for.
	ErrWrongName = corrupt("manifest of another name")
	// ErrWrongOwner: a key of somebody else.
	ErrWrongOwner = corrupt("key of another owner")
	// ErrWrongAccount: a key of another account, or of one where none can be.
	ErrWrongAccount = corrupt("key of another account")
	// ErrSigned: account, key and signature of a function do not belong together.
	ErrSigned = corrupt("account, key and signature do not belong together")
	// ErrKEK: wrapped under another KEK.
	ErrKEK = corrupt("wrapped under another key")
	// ErrWrapped: KMS does not unwrap the key in this context.
	ErrWrapped = corrupt("wrapped key does not open")
	// ErrDamaged: a chunk was changed, moved, or belongs to another function.
	ErrDamaged = corrupt("ciphertext does not authenticate")
	// ErrTruncated: the end is missing.
	ErrTruncated = corrupt("ciphertext is cut short")
	// ErrOversized: more bytes than a function may have.
	ErrOversized = corrupt("ciphertext is too long")
	// ErrChecksum: the plaintext is not the manifest's.
	ErrChecksum = corrupt("function is not the manifest's")
)

func corrupt(what string) error { return fmt.Errorf("%w: %s", ErrCorrupt, what) }

// HostError is a refusal of the host to store something. Code is one of wire's; the host's
// text is left out, since nothing vouches for it.
type HostError struct{ Code string }

func (e *HostError) Error() string { return "host refuses: " + e.Code }

// Is makes every HostError match ErrUnavailable.
func (e *HostError) Is(target error) bool { return target == ErrUnavailable }
