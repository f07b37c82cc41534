// Package seal holds the cryptography of sessions: what protects a function's
// input between the caller and the enclave, and what proves a result.
//
// It trusts its keys. It refuses frames that are too short, were sealed to
// another key, or were changed; and checksums whose signature does not hold.
// The client seals and verifies; the enclave, which makes a SessionKey for
// every connection, opens and signs. spec/session-v1.md states the formats.
package seal
