// Command cape-runtime-dev is the runtime with what development needs in the place of
// production's parts: a security module that the launcher plays, unix sockets that stand in
// for vsock, and a KMS of the launcher's own. It is never in a production image, and what it
// attests never chains to AWS's root unless it runs on AWS's hardware.
package main

import (
	"context"
	"crypto/x509"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"path/filepath"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/cape-functions/cape/core/attest/nitro"
	"github.com/cape-functions/cape/core/wire"
	"github.com/cape-functions/cape/enclave/internal/boot"
	"github.com/cape-functions/cape/enclave/internal/handler"
	"github.com/cape-functions/cape/enclave/internal/keyring/amazonroots"
	"github.com/cape-functions/cape/enclave/internal/machine"
	"github.com/cape-functions/cape/enclave/internal/nsm"
	"github.com/cape-functions/cape/enclave/internal/nsm/remote"
	"github.com/cape-functions/cape/vsock"
)

// region is where a KMS that is not AWS's creates keys.
const region = "us-east-1"

func main() {
	os.Clearenv()
	if os.Getpid() == 1 && len(os.Args) == 1 { // in a virtual machine; as a process it gets flags
		fmt.Fprintln(os.Stderr, "cape-runtime-dev:", machine.Run(pid1()))
		os.Exit(1)
	}
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM, syscall.SIGINT)
	defer stop()
	parts, layers, err := parseFlags(os.Args[1:])
	switch {
	case err != nil:
	case layers:
		err = printLayers(parts)
	default:
		err = boot.Run(ctx, parts)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "cape-runtime-dev:", err)
		os.Exit(1)
	}
}

// pid1 is the machine around the runtime in QEMU.
func pid1() machine.Config {
	return machine.Config{Entropy: machine.VirtioEntropy, Args: []string{"cape-runtime-dev", "--scratch", machine.Scratch, "--worker", "/usr/lib/cape"}, Stderr: true}
}

// parseFlags returns the parts, and whether only the layers of the jail are asked for.
func parseFlags(args []string) (boot.Parts, bool, error) {
	f := flag.NewFlagSet("cape-runtime-dev", flag.ContinueOnError)
	links := f.String("links", "", "directory of the unix sockets that stand in for vsock; empty: AF_VSOCK to CID 2")
	python := f.String("python", "/usr/bin/python3", "interpreter for functions, 3.9 or newer")
	worker := f.String("worker", "", "directory of the worker's files, compiled for the interpreter; empty: the runtime writes its own")
	scratch := f.String("scratch", "", "directory for the runtime alone, better in memory")
	mount := f.Bool("mount-scratch", false, "mount a file system in memory on the scratch directory: only in a mount namespace of the runtime's own")
	layers := f.Bool("layers", false, "print which layers of the jail this machine has, as JSON, and end")
	if err := f.Parse(args); err != nil {
		return boot.Parts{}, false, err
	}
	if f.NArg() > 0 || !filepath.IsAbs(*scratch) {
		return boot.Parts{}, false, errors.New("needs --scratch DIR with an absolute path, and takes no arguments")
	}
	if *mount {
		if err := mountScratch(*scratch); err != nil {
			return boot.Parts{}, false, err
		}
	}
	p := boot.Parts{
		Network: vsock.AF(vsock.CIDHost), SetClock: machine.SetClock, SecondClock: machine.HypervisorClock, NSM: dial, Endpoints: endpoints, BirthRoots: ownRoot,
		Python: *python, Worker: *worker, Scratch: *scratch, Degraded: true, Log: os.Stdout,
	}
	if *links != "" { // a process on the host's own kernel
		p.Network, p.SetClock, p.SecondClock = vsock.Unix(*links, true), nil, nil
	}
	return p, *layers, nil
}

// printLayers builds a jail and says which of its layers there are.
func printLayers(parts boot.Parts) error {
	h, err := handler.New(handler.Config{Python: parts.Python, Scratch: parts.Scratch, Trees: parts.Scratch, AllowDegraded: true})
	if err != nil {
		return err
	}
	return errors.Join(json.NewEncoder(os.Stdout).Encode(h.Layers()), h.Close())
}

// mountScratch keeps what the runtime unpacks out of every file system that the host sees.
func mountScratch(dir string) error {
	if err := unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""); err != nil {
		return fmt.Errorf("leaving the host's mounts: %w", err)
	}
	if err := unix.Mount("cape", dir, "tmpfs", unix.MS_NOSUID|unix.MS_NODEV, "mode=0700,size=80%"); err != nil {
		return fmt.Errorf("mounting the scratch directory: %w", err)
	}
	if os.Getpid() != 1 {
		return nil
	}
	// In a process namespace of its own, it would read the host's numbers of processes otherwise.
	if err := unix.Mount("proc", "/proc", "proc", unix.MS_NOSUID|unix.MS_NODEV|unix.MS_NOEXEC, ""); err != nil {
		return fmt.Errorf("mounting /proc: %w", err)
	}
	return nil
}

// nsmWithin is how long the launcher may take to answer.
const nsmWithin = 30 * time.Second

func dial(ctx context.Context, n vsock.Network) (nsm.Transport, error) {
	ctx, cancel := context.WithTimeout(ctx, nsmWithin)
	defer cancel()
	conn, err := vsock.Await(ctx, n, wire.PortDevNSM)
	if err != nil {
		return nil, err
	}
	return remote.Dial(conn), nil
}

// endpoints takes the host's settings, or AWS's own endpoints without any.
func endpoints(dev *wire.DevSettings) (boot.Endpoints, error) {
	if dev == nil {
		pool, err := amazonroots.Pool()
		return boot.Endpoints{AWS: pool, Issuers: pool}, err
	}
	pool := x509.NewCertPool()
	if !pool.AppendCertsFromPEM(dev.CA) {
		return boot.Endpoints{}, errors.New("development settings hold no root certificate")
	}
	return boot.Endpoints{KMS: dev.KMSEndpoint, STS: dev.STSEndpoint, Region: region, AWS: pool, Issuers: pool}, nil
}

// ownRoot accepts birth documents under the root that the module itself signs under: the
// launcher decides in development whom that is.
func ownRoot(d *nsm.Device) ([][]byte, error) {
	raw, err := d.Attest(nsm.Request{})
	if err != nil {
		return nil, err
	}
	s, err := nitro.Parse(raw)
	if err != nil {
		return nil, err
	}
	if len(s.Document.CABundle) == 0 {
		return nil, errors.New("the security module's documents have no root")
	}
	return s.Document.CABundle[:1], nil
}
