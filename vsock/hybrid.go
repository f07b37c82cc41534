package vsock

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"strconv"
	"strings"
)

// maxReply bounds the line that answers CONNECT: "OK " and a port.
const maxReply = 32

// ErrRefused is returned when nothing in the machine listens on the port.
var ErrRefused = errors.New("nothing answers on this vsock port")

// Hybrid returns the host's Network to one virtual machine whose vsock device is
// played by a program: it listens on the unix socket path and takes "CONNECT port\n",
// and connections of the machine to a port of the host come to the socket
// path_port. Firecracker defined this form, vhost-device-vsock has it too. Who may
// connect is decided by the folder's permissions.
func Hybrid(path string) Network { return hybrid{path} }

type hybrid struct{ path string }

func (h hybrid) Dial(ctx context.Context, port uint32) (net.Conn, error) {
	var d net.Dialer
	conn, err := d.DialContext(ctx, "unix", h.path)
	if err != nil {
		return nil, fmt.Errorf("dialling vsock port %d: %w", port, err)
	}
	stop := context.AfterFunc(ctx, func() { conn.Close() })
	err = connect(conn, port)
	if !stop() && err == nil {
		err = ctx.Err()
	}
	if err != nil {
		return nil, errors.Join(fmt.Errorf("dialling vsock port %d: %w", port, err), ctx.Err(), conn.Close())
	}
	return conn, nil
}

func connect(conn net.Conn, port uint32) error {
	if _, err := fmt.Fprintf(conn, "CONNECT %d\n", port); err != nil {
		return err
	}
	var reply strings.Builder
	b := make([]byte, 1) // what follows the line belongs to the caller
	for reply.Len() < maxReply {
		if _, err := conn.Read(b); err != nil {
			return fmt.Errorf("%w: %w", ErrRefused, err)
		}
		if b[0] == '\n' {
			break
		}
		reply.WriteByte(b[0])
	}
	rest, ok := strings.CutPrefix(reply.String(), "OK ")
	if _, err := strconv.ParseUint(rest, 10, 32); !ok || err != nil {
		return fmt.Errorf("%w: the device said %.32q", ErrRefused, reply.String())
	}
	return nil
}

func (h hybrid) Listen(port uint32) (net.Listener, error) {
	path := h.path + "_" + strconv.FormatUint(uint64(port), 10)
	if err := os.Remove(path); err != nil && !errors.Is(err, os.ErrNotExist) {
		return nil, fmt.Errorf("listening on vsock port %d: %w", port, err)
	}
	l, err := net.Listen("unix", path)
	if err != nil {
		return nil, fmt.Errorf("listening on vsock port %d: %w", port, err)
	}
	return l, nil
}
