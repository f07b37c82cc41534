// Package envelope is Cape Encrypt: data that anybody can seal to an account's
// Cape Key, and only an enclave can open. It knows two formats, both beginning
// with "cape:": the old one of one piece, and the streaming one, "cape:v2",
// which names whom it is for.
//
// It trusts the keys it is given. It refuses every header that is not encoded
// as it would encode it, every change, every cut, and hands out no byte of
// plaintext before the chunk that holds it was authenticated. Clients seal;
// the enclave opens, with keys that never leave it. All readers and writers
// are the caller's: the package itself does no I/O. spec/envelope.md states
// the formats.
package envelope
