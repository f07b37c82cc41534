// Package testkit plays an enclave of protocol v2 for tests: it has an authority that signs
// its documents, a configuration, a key policy and a birth document that belong together.
package testkit
