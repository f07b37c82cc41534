// Package secret holds the type for keys and plaintexts: bytes that never
// print.
//
// It trusts nothing and parses nothing. It refuses to show its bytes to fmt,
// log/slog, JSON, CBOR and text encoders, and to be compared with ==. Client
// and enclave code wrap every key and plaintext in it that lives longer than
// one function; only Reveal gives the bytes back, so every use is one search
// away. It does not defend against code that reads memory by unsafe means.
package secret
