// Package cms opens what KMS puts into CiphertextForRecipient: CMS EnvelopedData
// (RFC 5652) in BER with indefinite lengths, which encoding/asn1 does not read.
//
// It trusts nothing: anybody can encrypt to the public key of an attestation document, so
// the bytes say nothing about who wrote them. Only the TLS that brought them does. It
// refuses everything but the one shape that KMS writes: one recipient named by a key
// identifier, RSAES-OAEP with SHA-256, AES-256-CBC; and trailing bytes, nesting, other
// algorithms, and anything over [MaxSize]. Package keyring calls it.
package cms
