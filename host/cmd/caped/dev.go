package main

import (
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"os"
	"path/filepath"

	"github.com/spf13/cobra"

	"github.com/cape-functions/cape/host/internal/devserver"
	"github.com/cape-functions/cape/host/internal/launcher/qemu"
)

// devFlags are the flags of `caped dev`.
type devFlags struct {
	dataDir, listen, enclave, python, runtime, image, logFormat string
	memory, cpus                                                int
	tls                                                         string
	verbose                                                     bool
}

func (f *devFlags) register(cmd *cobra.Command) {
	flags := cmd.Flags()
	flags.StringVar(&f.dataDir, "data-dir", "", "where everything is kept (default $XDG_DATA_HOME/cape/dev)")
	flags.StringVar(&f.enclave, "enclave", "process", "kind of enclave: process, or qemu for a virtual machine")
	flags.StringVar(&f.python, "python", "python3", "process: interpreter for functions, 3.9 or newer")
	flags.StringVar(&f.runtime, "runtime", "", "process: path of cape-runtime-dev (default: beside caped)")
	flags.StringVar(&f.image, "image", "", "qemu: development image to boot (default: cape-runtime-dev.eif beside caped)")
	flags.IntVar(&f.memory, "memory", qemu.DefaultMemory, "qemu: memory of the machine in MiB")
	flags.IntVar(&f.cpus, "cpus", qemu.DefaultCPUs, "qemu: CPUs of the machine")
	flags.StringVar(&f.logFormat, "log-format", "text", "log on stderr as text or json")
	flags.BoolVarP(&f.verbose, "verbose", "v", false, "log every call")
}

func devCommand() *cobra.Command {
	var f devFlags
	cmd := &cobra.Command{
		Use:   "dev",
		Short: "Run the whole platform on this machine",
		Long: `Runs control plane, identity provider, a local KMS and an enclave on this machine.
The enclave is a process without a network, or with --enclave qemu a virtual machine that boots
an enclave image. Its attestation documents are signed by a development root that lies in
the data directory. It protects against everybody but the operator of this machine, and
clients say so at every connection.

When it can serve it prints "cape is ready at URL". A user named dev is logged in: a cape
in another terminal finds the platform by itself, or by the variables in DATA-DIR/env.`,
		Example: "  caped dev\n  caped dev --data-dir /tmp/try --listen 127.0.0.1:0\n  caped dev --enclave qemu\n  . /tmp/try/env && cape list",
		Args:    f.onlyTLS,
		RunE: func(cmd *cobra.Command, _ []string) error {
			opts, err := f.options(cmd.ErrOrStderr())
			if err != nil {
				return err
			}
			opts.Ready = func(url string) { fmt.Fprintln(cmd.OutOrStdout(), "cape is ready at", url) }
			return devserver.Run(cmd.Context(), opts)
		},
	}
	f.registerDev(cmd)
	return cmd
}

// registerDev adds the flags that only caped dev has.
func (f *devFlags) registerDev(cmd *cobra.Command) {
	f.register(cmd)
	cmd.Flags().StringVar(&f.listen, "listen", devserver.DefaultListen, "address to serve on; port 0 takes a free one")
	cmd.Flags().StringVar(&f.tls, "tls", "", "serve HTTPS with a local CA (DATA-DIR/ca.pem); with \"enclave\", sessions of protocol v2 are moved to a second listener whose TLS ends in the enclave")
	cmd.Flags().Lookup("tls").NoOptDefVal = tlsHost
}

// Values of --tls.
const (
	tlsHost    = "host"
	tlsEnclave = "enclave"
)

// onlyTLS takes the value of --tls, which may stand alone, and no other argument.
func (f *devFlags) onlyTLS(cmd *cobra.Command, args []string) error {
	if len(args) > 0 && f.tls == tlsHost && cmd.Flags().Changed("tls") {
		f.tls, args = args[0], args[1:]
	}
	if len(args) > 0 {
		return fmt.Errorf("%q: caped dev takes no arguments", args[0])
	}
	if f.tls != "" && f.tls != tlsHost && f.tls != tlsEnclave {
		return fmt.Errorf("--tls %s: TLS can end on the host (--tls) or in the enclave (--tls enclave)", f.tls)
	}
	return nil
}

// options resolves flags into what the platform needs.
func (f *devFlags) options(stderr io.Writer) (devserver.Options, error) {
	var none devserver.Options
	dir, err := f.directory()
	if err != nil {
		return none, err
	}
	log, err := newLogger(stderr, f.logFormat, f.verbose)
	if err != nil {
		return none, err
	}
	if err := f.checkListen(log); err != nil {
		return none, err
	}
	start, err := f.launcher(log)
	if err != nil {
		return none, err
	}
	return devserver.Options{DataDir: dir, Listen: f.listen, TLS: f.tls != "", EnclaveTLS: f.tls == tlsEnclave, Log: log, NewLauncher: start}, nil
}

func (f *devFlags) directory() (string, error) {
	if f.dataDir != "" {
		return filepath.Abs(f.dataDir)
	}
	base := os.Getenv("XDG_DATA_HOME")
	if base == "" {
		home, err := os.UserHomeDir()
		if err != nil {
			return "", errors.New("neither XDG_DATA_HOME nor HOME is set: name a directory with --data-dir")
		}
		base = filepath.Join(home, ".local", "share")
	}
	return filepath.Join(base, "cape", "dev"), nil
}

func (f *devFlags) checkListen(log *slog.Logger) error {
	if f.listen == "" {
		return nil
	}
	host, _, err := net.SplitHostPort(f.listen)
	if err != nil {
		return fmt.Errorf("--listen %s: needs the form HOST:PORT", f.listen)
	}
	if ip := net.ParseIP(host); host != "localhost" && (ip == nil || !ip.IsLoopback()) {
		log.Warn("a development platform is reachable from other machines: anybody with the dev user's token can use it", "listen", f.listen)
	}
	return nil
}
