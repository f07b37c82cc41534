// Package keypolicy writes and recognises the one key policy that a KEK may have, and
// verifies that a KEK was born inside an enclave with it.
//
// It trusts nothing: [Parse] takes whatever text a KMS returned, [CheckBirth] whatever
// document a host kept. It refuses every policy that is not, as parsed JSON, what [Render]
// writes for some parameters: one statement more or less, another operator, action or
// principal is refused, and never interpreted. The enclave calls it before it uses a key,
// clients before they trust an enclave.
package keypolicy
