// Package vsockproxy forwards connections of an enclave to allow-listed TCP
// endpoints. It moves bytes: TLS ends in the enclave, and the list is no
// control that anybody's secrets rest on, only a bound on what an enclave's
// parent can be used for.
package vsockproxy

import (
	"errors"
	"log/slog"
	"net"
	"time"
)

// Endpoint is an allowed destination.
type Endpoint struct {
	// Host is a name or an IP address literal.
	Host string
	// Port is the TCP port, 1 to 65535.
	Port uint16
	// AllowPrivate allows addresses that are private, loopback, link-local or
	// otherwise not of the public Internet.
	AllowPrivate bool
}

var (
	// ErrConfig is wrapped by New when the configuration cannot be used.
	ErrConfig = errors.New("unusable proxy configuration")
	// ErrDenied: the destination is not on the list, or resolves to an address that
	// the list does not allow.
	ErrDenied = errors.New("destination is not allowed")
)

// Config says where connections may go. The zero value allows nothing.
type Config struct {
	// Allow lists the destinations; none means that every connection is refused.
	Allow []Endpoint
	// MaxConns bounds connections at once; 0 means 256.
	MaxConns int
	// Idle closes a connection on which nothing moved in either direction; 0 means
	// 60 seconds.
	Idle time.Duration
	// DialTimeout bounds resolving and connecting; 0 means 10 seconds.
	DialTimeout time.Duration
	// Log may be nil.
	Log *slog.Logger
}

// Proxy forwards connections. It is safe for concurrent use.
type Proxy struct{}

// New checks the configuration.
func New(c Config) (*Proxy, error) { return nil, ErrConfig }

// Handle returns a handler that forwards each connection to endpoint,
// "host:port" as in Config.Allow, and closes it. A connection for an endpoint
// that is not on the list is closed at once.
func (p *Proxy) Handle(endpoint string) func(net.Conn) {
	return func(c net.Conn) { _ = c.Close() }
}

// Close ends all connections and waits for their handlers.
func (p *Proxy) Close() error { return nil }
