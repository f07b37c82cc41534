package wire

import (
	"fmt"
	"unicode/utf8"
)

// Kinds of what begins.
const (
	KindInput    = "input"
	KindFunction = "function"
)

// Streams of a log.
const (
	StreamStdout = "stdout"
	StreamStderr = "stderr"
)

// Begin announces an input or, on the routes deploy and test, a function. Manifest and Sig
// stand in a deploy alone: the exact bytes that the account signed, and its signature.
type Begin struct {
	ID       uint64 `cbor:"id"`
	Kind     string `cbor:"kind"`
	Manifest []byte `cbor:"manifest,omitempty"`
	Sig      []byte `cbor:"sig,omitempty"`
}

// End says that the client sent all of id.
type End struct {
	ID uint64 `cbor:"id"`
}

// Result says that the enclave sent all of the output of id.
type Result struct {
	ID        uint64    `cbor:"id"`
	Checksums Checksums `cbor:"checksums"`
	Receipt   []byte    `cbor:"receipt"` // COSE_Sign1, see package seal
	Openings  Openings  `cbor:"openings"`
}

// Checksums are SHA-256 sums: of the input and the output as the records carried them, of
// the function's zip.
type Checksums struct {
	Input    []byte `cbor:"input"`
	Function []byte `cbor:"function"`
	Output   []byte `cbor:"output"`
}

// Openings are the keys of a receipt's commitments.
type Openings struct {
	In  []byte `cbor:"in"`
	Out []byte `cbor:"out"`
}

// Failure says that id failed, or without an ID the session. The text was written by the
// enclave; a handler's exception may stand in it.
type Failure struct {
	ID      *uint64 `cbor:"id"`
	Code    string  `cbor:"code"`
	Message string  `cbor:"message"`
}

// Log is what a handler wrote to one of its streams. Owners alone get it.
type Log struct {
	ID     uint64 `cbor:"id"`
	Stream string `cbor:"stream"`
	Data   []byte `cbor:"data"`
}

// Accepted is the enclave's first record unless that is a Failure. Fn, Manifest, Sig and Key
// are nil for test and deploy; Sig and Key also for a function without an account.
type Accepted struct {
	Fn       []byte       `cbor:"fn"` // SHA-256 of the function's zip
	Manifest []byte       `cbor:"manifest"`
	Sig      []byte       `cbor:"sig"`
	Key      []byte       `cbor:"key"`      // the account's Ed25519 public key, 32 bytes
	Python   string       `cbor:"python"`   // "3.11"
	Platform string       `cbor:"platform"` // "linux-x86_64"
	Limits   LimitsConfig `cbor:"limits"`
}

// Cancel ends the invocation id, and with it the session's process.
type Cancel struct {
	ID uint64 `cbor:"id"`
}

// Deployed ends a deploy.
type Deployed struct {
	ID       string `cbor:"id"` // of the function
	Checksum []byte `cbor:"checksum"`
}

// Window allows the other side to send more payload of id.
type Window struct {
	ID    uint64 `cbor:"id"`
	Bytes uint64 `cbor:"bytes"`
}

func (*Begin) recordType() RecordType    { return RecordBegin }
func (*End) recordType() RecordType      { return RecordEnd }
func (*Result) recordType() RecordType   { return RecordEnd }
func (*Failure) recordType() RecordType  { return RecordError }
func (*Log) recordType() RecordType      { return RecordLog }
func (*Accepted) recordType() RecordType { return RecordAccepted }
func (*Cancel) recordType() RecordType   { return RecordCancel }
func (*Deployed) recordType() RecordType { return RecordDeployed }
func (*Window) recordType() RecordType   { return RecordWindow }

func (m *Begin) validate() error {
	signed := m.Manifest != nil || m.Sig != nil
	switch {
	case m.ID == 0 || (m.Kind != KindInput && m.Kind != KindFunction):
		return malformed("begin")
	case signed && (m.Kind != KindFunction || len(m.Manifest) == 0 || len(m.Manifest) > MaxManifest || len(m.Sig) != SignatureSize):
		return malformed("begin")
	}
	return nil
}

func (m *End) validate() error { return needs("end", m.ID != 0) }

func (m *Result) validate() error {
	c := m.Checksums
	return needs("result", m.ID != 0 && hashes(c.Input, c.Function, c.Output, m.Openings.In, m.Openings.Out) &&
		len(m.Receipt) > 0 && len(m.Receipt) <= MaxReceipt)
}

func (m *Failure) validate() error {
	return needs("error", (m.ID == nil || *m.ID != 0) && m.Code != "" && len(m.Code) <= 64 &&
		len(m.Message) <= MaxErrorText && utf8.ValidString(m.Message))
}

func (m *Log) validate() error {
	return needs("log", m.ID != 0 && (m.Stream == StreamStdout || m.Stream == StreamStderr) && len(m.Data) > 0 && len(m.Data) <= MaxLogData)
}

func (m *Accepted) validate() error {
	named := m.Fn != nil
	signed := m.Sig != nil
	return needs("accepted", hashOrNull(m.Fn) && (m.Manifest != nil) == named && (!named || len(m.Manifest) > 0) && len(m.Manifest) <= MaxManifest &&
		(!signed || named) && (m.Key != nil) == signed && (!signed || len(m.Sig) == SignatureSize && len(m.Key) == AccountKeySize) &&
		len(m.Python) <= 64 && len(m.Platform) <= 64)
}

func (m *Cancel) validate() error { return needs("cancel", m.ID != 0) }

func (m *Deployed) validate() error { return needs("deployed", ValidID(m.ID) && hashes(m.Checksum)) }

func (m *Window) validate() error {
	return needs("window", m.ID != 0 && m.Bytes > 0 && m.Bytes <= MaxCredit)
}

func needs(name string, sound bool) error {
	if !sound {
		return malformed(name)
	}
	return nil
}

func malformed(name string) error {
	return fmt.Errorf("%w: a field of %s is missing, too large, or not one that it may hold", ErrMalformed, name)
}

// Sizes of the account's Ed25519 key and signature.
const (
	AccountKeySize = 32
	SignatureSize  = 64
)

// FailureOf returns the record of an error that ends id, or the session when id is 0.
func FailureOf(id uint64, code, text string) *Failure {
	f := &Failure{Code: code, Message: cut(text, MaxErrorText)}
	if id != 0 {
		f.ID = &id
	}
	return f
}
