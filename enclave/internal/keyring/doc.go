// Package keyring makes and opens the keys that the KEK wraps: it is the only code of the
// enclave that speaks to KMS.
//
// It trusts KMS, reached over TLS that ends here with roots baked into the image, at the
// endpoint that the key's ARN names. It refuses a KEK whose properties, grants or policy
// are not exactly those of spec/kms.md, credentials of another role, answers about another
// key, and key material that did not come encrypted to the key pair in its own attestation
// document. It reads no environment and no file. Packages boot, vault and session call it.
package keyring
