// Package token verifies JSON Web Tokens inside the enclave.
//
// It trusts the issuers of the measured configuration: their keys come over TLS from
// their own address, or from the host signed by a key that the configuration names. It
// refuses tokens of other issuers, algorithms without a public key, keys of another use,
// other audiences, expired or future tokens, and anything larger than a token should be.
// Package session calls it before anything is fetched or opened for a caller. A token says
// who may try: against the host, which may run the issuer, it is no authority.
package token
