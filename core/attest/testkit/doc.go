// Package testkit mints attestation documents, sound and broken, for the tests of this
// and other packages. Shipped code must not import it.
package testkit
