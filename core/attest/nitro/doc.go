// Package nitro reads and writes the bytes of AWS Nitro attestation documents:
// COSE_Sign1 (RFC 9052) over a CBOR map (RFC 8949).
//
// It trusts nothing: [Parse] takes whatever the network brought and returns a
// structure whose signature nobody has looked at yet. It refuses what a Nitro
// security module (NSM) does not write: other algorithms than ES384, duplicate
// keys, trailing bytes, deep nesting, fields over their limits. It accepts
// indefinite lengths, which the NSM of today writes, and fields it does not know.
//
// Package chain verifies signatures, package policy compares contents; package
// attest puts them together and is what clients, hosts and enclaves call. The
// development signer on the host calls [Sign].
package nitro
