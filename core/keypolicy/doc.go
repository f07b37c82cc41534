// Package keypolicy writes and recognises the one key policy that a KEK may have.
//
// It trusts nothing: [Parse] takes whatever text a KMS returned. It refuses every policy
// that is not, as parsed JSON, what [Render] writes for some parameters: one statement
// more or less, another operator, action or principal is refused, and never interpreted.
// The enclave calls it before it uses a key, clients before they trust an enclave.
package keypolicy
