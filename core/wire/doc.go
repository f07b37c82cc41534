// Package wire holds every message that crosses a trust boundary: the v1
// session frames, the JSON of the HTTP API, function manifests, the runtime's
// configuration, and the links between the runtime and its host. All limits
// stand in limits.go.
//
// It trusts nothing: every decoder is strict, bounded, and refuses what it
// does not know, except where a published client is known to send more. It
// holds no keys and does no I/O, so clients, hosts and the runtime all use it.
package wire
