// Package policy says which attestation documents are acceptable: measurements,
// nonce, debug mode, age.
//
// It trusts the caller's [Policy] and a document whose signature package chain has
// verified. It refuses by default: a zero Policy accepts nothing, an empty list never
// means "any", and leaving a check out takes a field whose name says so and shows in
// the result. Package attest is what calls it.
package policy
