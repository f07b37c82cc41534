// Package nsm speaks to the Nitro security module: attestation documents, PCRs,
// randomness and time.
//
// It trusts the module behind its [Transport] and nothing else; what the module answers
// is still parsed strictly and within limits, because in development the module is a
// program of the host. It refuses answers of another form, of another request, or larger
// than the driver's own buffers. Packages boot, session and keyring call it; tenants'
// code must never reach it, since whoever does can mint a document for a key of their own.
package nsm
