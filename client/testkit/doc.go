// Package testkit is a server that speaks both protocols without an enclave, for the tests of
// clients: honest unless it is told which lie to tell. Shipped code must not import it.
package testkit
