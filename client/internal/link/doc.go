// Package link carries requests and WebSocket handshakes to a server: TLS, tokens,
// redirects, errors. It knows nothing of what is said inside a session.
package link
