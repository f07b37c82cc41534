// Package flow keeps account of the streams of one v2 session: which ids may begin, and how
// many payload bytes each may carry.
//
// It trusts neither side: whoever sends more than was granted, begins an id out of order, or
// goes on with one that ended, broke the protocol, and its session ends. Clients and the
// enclave use the same rules. It holds numbers alone, no data. spec/session-v2.md states the
// rules.
package flow
