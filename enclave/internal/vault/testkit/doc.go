// Package testkit plays what package vault depends on: a host that stores, and lies when it
// is told to, and a key service without KMS. Shipped code must not import it.
//
// It trusts its caller. It refuses, as KMS does, to unwrap under another context.
package testkit
