// Package account is the authority of a developer: an Ed25519 key made on its owner's
// machine, which signs functions and admits sessions. The identity provider is run by the
// host, so nothing else proves against the host whose a function is.
//
// It trusts the key it is given. It refuses signatures that do not hold, manifests of another
// account than the key's, and every encoding but one. Clients sign; clients and the enclave
// verify. spec/account.md states the formats.
package account
