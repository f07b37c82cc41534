package nitro

import (
	"errors"
	"time"
)

// Limits of a document. Sources: AWS's description of the attestation process and
// what real documents carry; anything larger is refused before it is decoded further.
const (
	// MaxDocument bounds a whole document in bytes; real ones have 4 to 6 KiB.
	MaxDocument = 16 << 10
	// MaxModuleID bounds the module id in bytes; real ones have 39.
	MaxModuleID = 256
	// MaxCertificate bounds one DER certificate in bytes.
	MaxCertificate = 1024
	// MaxCABundle bounds the number of certificates above the leaf; real documents have 4.
	MaxCABundle = 8
	// MaxPublicKey, MaxUserData and MaxNonce bound the caller's fields in bytes. AWS's
	// text says 512 for the last two, its CDDL 1024, and real documents carry over 700.
	MaxPublicKey = 1024
	MaxUserData  = 1024
	MaxNonce     = 1024
)

// DigestSHA384 is the only digest name that an NSM writes and that Parse accepts.
const DigestSHA384 = "SHA384"

// SignatureSize is the length of an ES384 signature: r and s, 48 bytes each, big endian.
const SignatureSize = 96

var (
	// ErrMalformed is matched by every error of Parse.
	ErrMalformed = errors.New("malformed attestation document")
	// ErrPCRFormat is matched by errors of ParsePCR.
	ErrPCRFormat = errors.New("not a PCR value")
	// ErrSign is matched by errors of Sign.
	ErrSign = errors.New("cannot sign attestation document")
)

// Document is the content that the security module signed. Byte slices of a parsed
// document are copies; PublicKey, UserData and Nonce are nil when absent or null, and
// empty but not nil when the document holds an empty string.
type Document struct {
	// ModuleID names the enclave, "i-0123456789abcdef0-enc0123456789abcdef".
	ModuleID string
	// Digest is the hash of the PCRs, always DigestSHA384.
	Digest string
	// Timestamp is the module's clock, in UTC, to the millisecond.
	Timestamp time.Time
	// PCRs are the locked registers by index, 0 to MaxPCRs-1.
	PCRs map[int]PCR
	// Certificate is the leaf, DER, whose key signed the document.
	Certificate []byte
	// CABundle is the chain above the leaf, DER, from the root down.
	CABundle [][]byte
	// PublicKey, UserData and Nonce are what the enclave asked to have signed.
	PublicKey, UserData, Nonce []byte
}

// Signed is a parsed COSE_Sign1: the document and the exact bytes that the signature
// covers. Nothing of it is verified.
type Signed struct {
	Document Document
	// Protected is the content of the protected header's byte string.
	Protected []byte
	// Payload is the CBOR that Document was read from.
	Payload []byte
	// Signature is r || s, SignatureSize bytes.
	Signature []byte
}
