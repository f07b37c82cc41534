// Package vsockproxy forwards connections of an enclave to allow-listed TCP
// endpoints. It moves bytes: TLS ends in the enclave, and the list is no
// control that anybody's secrets rest on, only a bound on what an enclave's
// parent can be used for.
package vsockproxy

import (
	"context"
	"errors"
	"log/slog"
	"net"
	"net/netip"
	"strconv"
	"time"
)

// Endpoint is an allowed destination.
type Endpoint struct {
	// Host is a name or an IP address literal.
	Host string
	// Port is the TCP port, 1 to 65535.
	Port uint16
	// AllowPrivate allows addresses that are private, loopback, link-local or
	// otherwise not of the public Internet; link-local ones only to a Host that
	// is such an address itself.
	AllowPrivate bool
}

// String is "host:port".
func (e Endpoint) String() string { return net.JoinHostPort(e.Host, strconv.Itoa(int(e.Port))) }

var (
	// ErrConfig is wrapped by New, ParseConfig and ReadConfig when a configuration
	// cannot be used.
	ErrConfig = errors.New("unusable proxy configuration")
	// ErrDenied: the destination is not on the list, or resolves to an address that
	// the list does not allow.
	ErrDenied = errors.New("destination is not allowed")
)

// Family restricts the addresses that are used.
type Family int

// Families. The zero value is both.
const (
	AnyFamily Family = iota
	IPv4Only
	IPv6Only
)

// Defaults of Config.
const (
	DefaultMaxConns    = 256
	DefaultIdle        = time.Minute
	DefaultDialTimeout = 10 * time.Second
)

// Config says where connections may go. The zero value allows nothing.
type Config struct {
	// Allow lists the destinations; none means that every connection is refused.
	Allow []Endpoint
	// Family restricts what names may resolve to.
	Family Family
	// MaxConns bounds connections at once; 0 means DefaultMaxConns.
	MaxConns int
	// Idle closes a connection on which nothing moved in either direction; 0 means
	// DefaultIdle.
	Idle time.Duration
	// DialTimeout bounds resolving and connecting; 0 means DefaultDialTimeout.
	DialTimeout time.Duration
	// Resolve looks up a name; it is called for every connection. Nil means the
	// system's resolver.
	Resolve func(ctx context.Context, host string) ([]netip.Addr, error)
	// Log may be nil.
	Log *slog.Logger
}
