// Package vsock is one dial and listen interface over AF_VSOCK and over unix
// sockets that stand in for it. Both the runtime and its host use it; it moves
// bytes, holds no keys, and believes nothing about who is at the other end
// beyond the CID the kernel reports.
package vsock

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"time"
)

// Well-known context identifiers (vsock(7)).
const (
	CIDHypervisor = 0
	CIDHost       = 2 // the host, as a QEMU guest sees it
	CIDParent     = 3 // the parent instance, as a Nitro enclave sees it
)

// ErrUnsupported is returned where the machine has no AF_VSOCK.
var ErrUnsupported = errors.New("AF_VSOCK is not available on this machine")

// Network reaches the other side of one enclave: the host from inside, the
// enclave from the host. Implementations are safe for concurrent use.
type Network interface {
	// Dial connects to a port of the other side.
	Dial(ctx context.Context, port uint32) (net.Conn, error)
	// Listen accepts connections of the other side to a port of this side.
	// Connections from anybody else are refused.
	Listen(port uint32) (net.Listener, error)
}

// Unix returns a Network over unix sockets in dir, for enclaves that are
// processes: the host's ports are dir/host/PORT, the enclave's are
// dir/enclave/PORT. Both folders must exist; who may connect is decided by
// their permissions.
func Unix(dir string, inside bool) Network { return unixNetwork{dir: dir, inside: inside} }

type unixNetwork struct {
	dir    string
	inside bool
}

func (n unixNetwork) path(inside bool, port uint32) string {
	side := "host"
	if inside {
		side = "enclave"
	}
	return filepath.Join(n.dir, side, strconv.FormatUint(uint64(port), 10))
}

func (n unixNetwork) Dial(ctx context.Context, port uint32) (net.Conn, error) {
	var d net.Dialer
	conn, err := d.DialContext(ctx, "unix", n.path(!n.inside, port))
	if err != nil {
		return nil, fmt.Errorf("dialling vsock port %d: %w", port, err)
	}
	return conn, nil
}

func (n unixNetwork) Listen(port uint32) (net.Listener, error) {
	path := n.path(n.inside, port)
	if err := os.Remove(path); err != nil && !errors.Is(err, os.ErrNotExist) {
		return nil, fmt.Errorf("listening on vsock port %d: %w", port, err)
	}
	l, err := net.Listen("unix", path)
	if err != nil {
		return nil, fmt.Errorf("listening on vsock port %d: %w", port, err)
	}
	return l, nil
}

// awaitRetry is how long Await waits between tries.
const awaitRetry = 50 * time.Millisecond

// Await dials until something answers or ctx ends: the other side of a machine that
// just booted may not be there yet, and the kernel gives up on it after two seconds.
func Await(ctx context.Context, n Network, port uint32) (net.Conn, error) {
	for {
		conn, err := n.Dial(ctx, port)
		if err == nil {
			return conn, nil
		}
		select {
		case <-ctx.Done():
			return nil, errors.Join(err, ctx.Err())
		case <-time.After(awaitRetry):
		}
	}
}
