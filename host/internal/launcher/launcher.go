// Package launcher starts enclaves. Each backend is a folder below: process
// (a sandboxed process), qemu (a microvm), nitro (AWS Nitro Enclaves).
package launcher

import (
	"context"
	"net"

	"github.com/cape-functions/cape/core/wire"
)

// Launcher starts enclaves of one backend.
type Launcher interface {
	// Launch starts an enclave and returns when its session port answers, or,
	// for a spec whose Oneshot is set, when it was started.
	Launch(ctx context.Context, spec Spec) (Enclave, error)
	// Measure returns what Launch would start is measured as: "HashAlgorithm",
	// "PCR0", "PCR1", "PCR2" and, when the image is signed, "PCR8", in the form of
	// nitro-cli describe-eif.
	Measure(ctx context.Context) (map[string]string, error)
}

// Spec says what to start.
type Spec struct {
	// Services are the host's ends of the links (wire.PortBoot and so on). The
	// launcher listens before the enclave starts, passes each connection of that
	// enclave to the handler on a goroutine of its own, and closes all of them when
	// the enclave ends.
	Services map[uint32]func(net.Conn)
	// Oneshot: the enclave does one thing and ends (wire.ModeKMSInit).
	Oneshot bool
}

// Enclave is a running enclave.
type Enclave interface {
	// Dial connects to a port of the enclave.
	Dial(ctx context.Context, port uint32) (net.Conn, error)
	// Done is closed when the enclave has ended; Err then says why.
	Done() <-chan struct{}
	Err() error
	// Release is what the enclave runs, for GET /v1/releases.
	Release() wire.Release
	// Close ends the enclave and waits for it, at most 5 seconds.
	Close() error
}
