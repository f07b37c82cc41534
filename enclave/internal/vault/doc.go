// Package vault keeps functions and account keys on a host that must learn nothing of them.
//
// It trusts what KMS unwrapped and what the keys authenticate, and the measured
// configuration. It refuses whatever the host answers that is not what this or another
// enclave of the same KEK once stored: another manifest, id, name or owner, a key of another
// KEK, ciphertext that was changed, cut, reordered or swapped, bodies beyond their limits,
// and answers that take too long. Package session calls it. spec/storage.md states the
// formats.
package vault
