package boot

import (
	"context"
	"crypto/x509"
	"io"
	"time"

	"github.com/cape-functions/cape/core/wire"
	"github.com/cape-functions/cape/enclave/internal/nsm"
	"github.com/cape-functions/cape/vsock"
)

// Parts is what the two runtimes do differently.
type Parts struct {
	// Network reaches the host.
	Network vsock.Network
	// NSM opens the security module.
	NSM func(ctx context.Context, n vsock.Network) (nsm.Transport, error)
	// Endpoints says where TLS connections go and what they trust, or refuses the settings.
	Endpoints func(dev *wire.DevSettings) (Endpoints, error)
	// BirthRoots are the roots that a birth document may chain to; nil: AWS's alone.
	BirthRoots func(d *nsm.Device) ([][]byte, error)
	// SetClock sets the kernel's clock to the security module's time, never to what the host
	// says; nil: the machine is not the runtime's own.
	SetClock func(time.Time) error
	// SecondClock is compared with the module's time, and has no other effect; nil: there is none.
	SecondClock func() (time.Time, error)
	// Python is the interpreter, Scratch a directory in memory for the runtime alone.
	Python, Scratch string
	// Worker is the folder of the image's compiled copy of package python; empty: there is none.
	Worker string
	// Degraded goes on where a layer of the jail cannot be had.
	Degraded bool
	// Log gets the closed list of events, as JSON lines: the host reads it.
	Log io.Writer
}

// Endpoints are the services that are reached by TLS through the host.
type Endpoints struct {
	// KMS and STS are https URLs; empty: AWS's own for the key's region.
	KMS, STS string
	// Region is where a KEK is created when no route names AWS's endpoint of one.
	Region string
	// AWS are the roots for KMS and STS, Issuers those for key sets by URL.
	AWS, Issuers *x509.CertPool
}
