// Package eif reads, writes, measures and signs enclave image files, format
// version 4 of AWS Nitro Enclaves (spec/eif.md).
//
// Images are streamed: nothing here holds more than a few buffers of one. [Read]
// refuses whatever deviates from the one layout that AWS's own library writes: a
// section out of order, a wrong offset, size or checksum, bytes behind the end, a
// signature that does not verify. So an [Image] that it returns was measured
// whole, and its signature, if it has one, is over that measurement. The metadata
// section is in no measurement: it is skipped, and nothing is told of it.
package eif
