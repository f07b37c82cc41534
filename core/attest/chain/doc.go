// Package chain verifies who signed an attestation document: the certificate chain
// from a pinned root to the leaf, and the leaf's signature over the document.
//
// It trusts the roots that the caller passes, compared by content, and nothing that
// the document itself carries. It refuses every chain that is not exactly root,
// authorities, leaf, in this order, all on P-384 with SHA-384, each within its path
// length and its validity. Revocation lists are not consulted: leaves live for hours,
// and AWS does not serve the lists to the public.
//
// Package attest is what calls it.
package chain
