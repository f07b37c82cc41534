package wire

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"strings"
)

// Subprotocols of the WebSocket routes.
const (
	SubprotocolRuntime  = "cape.runtime"
	SubprotocolFunction = "cape.function"
	SubprotocolV2       = "cape.v2"
)

// Types of v1 messages.
const (
	TypeAttestation = "attestation_doc"
	TypeResult      = "function_result"
)

// StartV1 opens every v1 session. Published clients send further keys, which
// are ignored.
type StartV1 struct {
	Nonce []byte `json:"nonce"`
}

// AttestationV1 answers StartV1. Message is the COSE_Sign1 document.
type AttestationV1 struct {
	Type    string `json:"type"`
	Message []byte `json:"message"`
}

// DeployV1 precedes the binary frame of a deploy.
type DeployV1 struct {
	Name   string `json:"function_name"`
	Public bool   `json:"public"`
}

// DeployedV1 ends a deploy.
type DeployedV1 struct {
	ID string `json:"id"`
}

// ChecksumsV1 are SHA-256 sums of one invocation.
type ChecksumsV1 struct {
	Input    []byte `json:"input"`
	Function []byte `json:"function"`
	Output   []byte `json:"output"`
}

// ResultV1 answers one input.
type ResultV1 struct {
	Type            string      `json:"type"`
	Message         []byte      `json:"message"`
	Checksums       ChecksumsV1 `json:"checksums"`
	SignedChecksums []byte      `json:"signed_checksums"`
}

// UserDataV1 is the user data of v1 documents, as JSON. Byte strings are
// standard base64. FuncHash and KeyPolicyHash repeat two values under names
// that older clients read.
type UserDataV1 struct {
	FuncChecksum  []byte `json:"func_checksum,omitempty"`
	KeyChecksum   []byte `json:"key_checksum,omitempty"`
	Key           []byte `json:"key,omitempty"`
	SignatureKey  []byte `json:"signature_verification_public_key,omitempty"`
	FuncHash      []byte `json:"func_hash,omitempty"`
	KeyPolicyHash []byte `json:"key_policy_hash,omitempty"`
}

// RemoteError is an error the other side reported. Its text is untrusted.
type RemoteError struct{ Code, Text string }

func (e *RemoteError) Error() string { return e.Text }

// EncodeV1 wraps a message as {"message": …}. A success frame has no "error"
// key: one published client takes its mere presence for failure.
func EncodeV1(message any) ([]byte, error) {
	return json.Marshal(struct {
		Message any `json:"message"`
	}{message})
}

// EncodeErrorV1 wraps an error as {"error": "code: text"}.
func EncodeErrorV1(code, text string) []byte {
	if len(text) > MaxErrorText {
		text = strings.ToValidUTF8(text[:MaxErrorText], "")
	}
	b, err := json.Marshal(map[string]string{"error": code + ": " + text})
	if err != nil { // strings always encode
		return []byte(`{"error":"internal: error text could not be encoded"}`)
	}
	return b
}

// DecodeV1 reads one wrapped message into v. It returns a *RemoteError when
// the frame carries an error instead.
func DecodeV1(frame []byte, v any) error {
	var outer struct {
		Message json.RawMessage `json:"message"`
		Error   *string         `json:"error"`
	}
	if err := decodeJSON(frame, &outer); err != nil {
		return err
	}
	if outer.Error != nil && *outer.Error != "" {
		return parseErrorV1(*outer.Error)
	}
	if len(outer.Message) == 0 || bytes.Equal(outer.Message, []byte("null")) {
		return fmt.Errorf("%w: frame has no message", ErrMalformed)
	}
	return decodeJSON(outer.Message, v)
}

func decodeJSON(data []byte, v any) error {
	d := json.NewDecoder(bytes.NewReader(data))
	if err := d.Decode(v); err != nil {
		return fmt.Errorf("%w: not the JSON expected here", ErrMalformed)
	}
	if _, err := d.Token(); !errors.Is(err, io.EOF) {
		return fmt.Errorf("%w: bytes after the JSON", ErrMalformed)
	}
	return nil
}

var codes = []string{CodeUnauthorized, CodeNotFound, CodeInvalidFunction, CodeInvalidRequest, CodeFunctionError, CodeTimeout,
	CodeOutOfMemory, CodeTooLarge, CodeQuota, CodeUnavailable, CodeInternal}

func parseErrorV1(text string) *RemoteError {
	for _, c := range codes {
		if rest, ok := strings.CutPrefix(text, c+": "); ok {
			return &RemoteError{Code: c, Text: rest}
		}
	}
	return &RemoteError{Code: CodeInternal, Text: text}
}
