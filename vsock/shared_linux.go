package vsock

import (
	"fmt"
	"net"

	"github.com/mdlayher/vsock"
)

// Listen accepts connections to a port of this machine from every CID. Whose a
// connection is, Peer tells: use it where several enclaves share a port.
func Listen(port uint32) (net.Listener, error) {
	l, err := vsock.Listen(port, nil)
	if err != nil {
		return nil, fmt.Errorf("listening on vsock port %d: %w", port, err)
	}
	return l, nil
}

// Peer returns the CID that the kernel reports for the other side of conn, and
// false when conn is not of AF_VSOCK.
func Peer(conn net.Conn) (uint32, bool) {
	a, ok := conn.RemoteAddr().(*vsock.Addr)
	if !ok {
		return 0, false
	}
	return a.ContextID, true
}
