// Package localkms is a key management service with the wire API of AWS KMS
// (JSON 1.1, Signature Version 4) and of STS's GetCallerIdentity, for machines
// without AWS. Key policies and attestation documents are enforced as AWS
// does, so the code in the enclave is the same.
//
// It protects keys against everyone but the operator of the machine it runs
// on: whoever reads its directory has the keys. What it implements, and what
// it does not promise, stands in spec/localkms.md.
package localkms

import (
	"errors"
	"log/slog"
	"time"
)

// Names under which the service's certificate is valid unless Config.Names
// says otherwise.
const (
	// HostName is the name that enclaves use.
	HostName = "kms.localkms.internal"
)

var (
	// ErrConfig is wrapped by Open when the configuration cannot be used.
	ErrConfig = errors.New("unusable local KMS configuration")
	// ErrInUse is wrapped by Open when another server uses the same directory.
	ErrInUse = errors.New("local KMS directory is in use")
	// ErrStore is wrapped by Open when the directory's content cannot be read.
	ErrStore = errors.New("local KMS directory cannot be read")
)

// Config says what a Server serves and where it keeps its keys.
type Config struct {
	// Dir holds the keys, sealed under Dir/master.key. It is made when missing,
	// with mode 0700.
	Dir string
	// Region and AccountID stand in every ARN. The region must be that of the
	// clients' signatures. Empty: "us-east-1", "000000000000".
	Region, AccountID string
	// AttestationRoots returns the roots (DER) that may have signed attestation
	// documents. None: every request with a Recipient is refused.
	AttestationRoots func() [][]byte
	// Names are the host names and IP addresses in the TLS certificate. Empty:
	// HostName, localhost, 127.0.0.1 and ::1.
	Names []string
	// Pairs is how many RSA-4096 pairs are kept ahead of need: 0 means 2, less
	// than 0 none, at most 16.
	Pairs int
	// Now is the clock; nil means time.Now.
	Now func() time.Time
	// Log receives one line for each call: action, principal, key, outcome. Nil
	// discards.
	Log *slog.Logger
}
