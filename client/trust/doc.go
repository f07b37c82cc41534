// Package trust decides which enclaves a client believes.
//
// A [Judge] looks at every attestation document before anything is sent. [Policy] is
// the one for programs: it accepts what it was told, and its zero value accepts
// nothing. [Keeper] is the one for people: it remembers each server's enclave in the
// trust file, as SSH remembers host keys, asks at the first contact and refuses changes.
package trust
