// Package testkit mints attestation documents, sound and broken, for the tests of this
// and other packages, and lists the cases that every verifier must decide alike. What it
// makes is the same in every run. Shipped code must not import it.
package testkit
