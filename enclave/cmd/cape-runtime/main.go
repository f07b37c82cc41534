// Command cape-runtime is the program inside a production enclave: the real security module,
// AF_VSOCK to the parent instance, AWS's endpoints under AWS's roots, and nothing else. It
// takes no arguments and no environment. As PID 1 it is the machine's init, and starts itself
// again as the runtime.
package main

import (
	"context"
	"crypto/x509"
	"errors"
	"os"
	"os/signal"
	"syscall"

	"github.com/cape-functions/cape/core/wire"
	"github.com/cape-functions/cape/enclave/internal/boot"
	"github.com/cape-functions/cape/enclave/internal/keyring/amazonroots"
	"github.com/cape-functions/cape/enclave/internal/machine"
	"github.com/cape-functions/cape/enclave/internal/nsm"
	"github.com/cape-functions/cape/vsock"
)

// What the image holds: the interpreter, and the worker's files compiled for it.
const (
	python = "/usr/bin/python3"
	worker = "/usr/lib/cape"
)

func main() {
	os.Clearenv()
	if os.Getpid() == 1 {
		_ = machine.Run(pid1())
		os.Exit(1)
	}
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM, syscall.SIGINT)
	defer stop()
	if len(os.Args) > 1 || boot.Run(ctx, parts()) != nil {
		os.Exit(1) // the log says how far it came
	}
}

// pid1 is the machine around the runtime, which has the same arguments: none.
func pid1() machine.Config {
	return machine.Config{Entropy: machine.NSMEntropy, Heartbeat: vsock.AF(vsock.CIDParent), Args: []string{"cape-runtime"}}
}

func parts() boot.Parts {
	return boot.Parts{
		Network:   vsock.AF(vsock.CIDParent),
		NSM:       func(context.Context, vsock.Network) (nsm.Transport, error) { return nsm.OpenDevice() },
		Endpoints: endpoints,
		SetClock:  machine.SetClock, SecondClock: machine.HypervisorClock,
		Python:  python,
		Worker:  worker,
		Scratch: machine.Scratch,
		Log:     os.Stdout,
	}
}

// errDevelopment: the host handed over settings that only the development runtime reads.
var errDevelopment = errors.New("production runtimes take no development settings")

func endpoints(dev *wire.DevSettings) (boot.Endpoints, error) {
	if dev != nil {
		return boot.Endpoints{}, errDevelopment
	}
	amazon, err := amazonroots.Pool()
	if err != nil {
		return boot.Endpoints{}, err
	}
	issuers, err := x509.SystemCertPool() // the image's own: the environment is empty
	if err != nil {
		return boot.Endpoints{}, err
	}
	return boot.Endpoints{AWS: amazon, Issuers: issuers}, nil
}
