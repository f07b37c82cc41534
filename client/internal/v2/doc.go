// Package v2 is the client's side of a sealed session (protocol cape.v2): the handshake,
// its records, and the streams in them. What the host can reach of it is authenticated or
// refused; whom to believe is for the caller's judge.
package v2
