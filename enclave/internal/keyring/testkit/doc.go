// Package testkit plays KMS and STS for tests of package keyring: a hand-written fake that
// speaks AWS's JSON 1.1 and query protocols over TLS and encrypts for recipients.
//
// It trusts its caller and enforces no policy: it is there to answer wrongly on demand.
// Shipped code must not import it.
package testkit
