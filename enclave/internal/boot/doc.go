// Package boot brings the runtime up and takes it down.
//
// It trusts the security module and what the image holds; of what the host hands over it
// believes nothing because the host said it: the trust in the configuration is measured into
// PCR16 before anything else happens, the KEK is inspected and its birth document verified
// before anything is served, and TLS ends in here. It refuses registers that somebody touched
// before, configuration that is not strictly encoded, and, in production, every endpoint but
// AWS's. The two mains call Run; they differ only in the Parts they hand over.
package boot
