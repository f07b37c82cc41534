package wire

import (
	"crypto/sha512"
	"fmt"
)

// Issuer is an identity provider whose tokens the runtime accepts. Its keys
// come over TLS from the URL JWKS, or, when JWKS is nil, from the host as a
// JWS signed by Signer (raw Ed25519 public key, 32 bytes) with an expiry.
type Issuer struct {
	Iss    string  `cbor:"iss"`
	JWKS   *string `cbor:"jwks"`
	Signer []byte  `cbor:"signer"`
}

// Trust is the part of the configuration that decides whom the runtime
// believes. It is extended into PCR16 before anything else happens.
type Trust struct {
	Issuers []Issuer `cbor:"issuers"`
	Role    string   `cbor:"role"` // ARN of the IAM role whose credentials the host must hand over
}

// LimitsConfig is the part of the limits an operator may lower. In an accepted message they
// are the function's own.
type LimitsConfig struct {
	Memory  uint64 `cbor:"memory"`  // bytes a handler process may use
	Scratch uint64 `cbor:"scratch"` // bytes of its private file system
	Procs   uint64 `cbor:"procs"`
	CallMS  uint64 `cbor:"call_ms"`
	Input   uint64 `cbor:"input"`
	Output  uint64 `cbor:"output"`
	Zip     uint64 `cbor:"zip"`
	Tree    uint64 `cbor:"tree"`
	Cache   uint64 `cbor:"cache"` // bytes of decrypted functions the runtime keeps
	Files   uint64 `cbor:"files"` // open files of one process
	CPU     uint64 `cbor:"cpu"`   // thousandths of a processor
}

// DefaultLimits are the limits of limits.go.
func DefaultLimits() LimitsConfig {
	return LimitsConfig{
		Memory: HandlerMemory, Scratch: HandlerScratch, Procs: HandlerProcs,
		CallMS: uint64(HandlerCall.Milliseconds()), Input: MaxInput, Output: MaxOutput,
		Zip: MaxFunctionZip, Tree: MaxFunctionTree, Cache: 4 << 30,
		Files: HandlerFiles, CPU: HandlerCPU,
	}
}

// Config is what the runtime runs under. The host hands it over; v2 attests
// its hash, and PCR16 commits to Trust.
type Config struct {
	Trust  Trust        `cbor:"trust"`
	KMS    string       `cbor:"kms"` // ARN of the KEK, empty only while one is being created
	Limits LimitsConfig `cbor:"limits"`
}

// ParseConfig decodes and validates a configuration.
func ParseConfig(data []byte) (*Config, error) {
	var c Config
	if err := Unmarshal(data, MaxConfig, &c); err != nil {
		return nil, fmt.Errorf("reading configuration: %w", err)
	}
	if len(c.Trust.Issuers) == 0 || c.Trust.Role == "" {
		return nil, fmt.Errorf("%w: configuration names no issuer or no role", ErrMalformed)
	}
	for _, i := range c.Trust.Issuers {
		if i.Iss == "" || (i.JWKS == nil) == (len(i.Signer) == 0) || (i.Signer != nil && len(i.Signer) != 32) {
			return nil, fmt.Errorf("%w: issuer %q needs either a JWKS URL or a 32-byte signer", ErrMalformed, i.Iss)
		}
	}
	d := DefaultLimits()
	l := c.Limits
	for _, v := range [][2]uint64{{l.Memory, d.Memory}, {l.Scratch, d.Scratch}, {l.Procs, d.Procs}, {l.CallMS, d.CallMS},
		{l.Input, d.Input}, {l.Output, d.Output}, {l.Zip, d.Zip}, {l.Tree, d.Tree}, {l.Cache, 1 << 40}, {l.Files, d.Files}, {l.CPU, d.CPU}} {
		if v[0] == 0 || v[0] > v[1] {
			return nil, fmt.Errorf("%w: a limit is zero or above its ceiling", ErrMalformed)
		}
	}
	return &c, nil
}

// TrustPCR is the index of the register that commits to Trust.
const TrustPCR = 16

// TrustMeasurement returns what the runtime extends into PCR16:
// SHA-384("cape trust 1\0" || trust), trust in its deterministic encoding.
func TrustMeasurement(t Trust) ([48]byte, error) {
	b, err := Marshal(t)
	if err != nil {
		return [48]byte{}, err
	}
	return sha512.Sum384(append([]byte("cape trust 1\x00"), b...)), nil
}

// ExpectedPCR16 returns the value of PCR16 in a runtime that trusts t:
// SHA-384(48 zero bytes || TrustMeasurement(t)).
func ExpectedPCR16(t Trust) ([48]byte, error) {
	m, err := TrustMeasurement(t)
	if err != nil {
		return [48]byte{}, err
	}
	return sha512.Sum384(append(make([]byte, 48), m[:]...)), nil
}
