package main

import (
	"errors"
	"fmt"
	"net"
	"os"
	"syscall"

	"github.com/cape-functions/cape/vsock"
	afvsock "github.com/mdlayher/vsock"
)

// network returns how ports are listened on.
func (o options) network() func(port uint32) (net.Listener, error) {
	switch {
	case o.links != "":
		return vsock.Unix(o.links, false).Listen
	case o.cid != 0:
		return func(port uint32) (net.Listener, error) {
			l, err := vsock.AF(o.cid).Listen(port)
			return l, explain(err)
		}
	}
	return func(port uint32) (net.Listener, error) {
		l, err := afvsock.Listen(port, nil)
		if err != nil {
			return nil, explain(fmt.Errorf("listening on vsock port %d: %w", port, err))
		}
		return l, nil
	}
}

// explain tells a machine without AF_VSOCK from other errors.
func explain(err error) error {
	if err == nil {
		return nil
	}
	for _, missing := range []error{os.ErrNotExist, syscall.EAFNOSUPPORT, syscall.ENODEV} {
		if errors.Is(err, missing) {
			return fmt.Errorf("%w: load the kernel module vhost_vsock (or vmw_vsock_virtio_transport), or use --links DIR: %w", vsock.ErrUnsupported, err)
		}
	}
	return err
}
