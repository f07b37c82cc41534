// Package v1 is the client's side of a v1 session (spec/session-v1.md): nonce, document,
// sealed inputs, results. It sends nothing before the document was accepted, and gives
// out no result that it did not compare with what was sent and attested.
package v1
