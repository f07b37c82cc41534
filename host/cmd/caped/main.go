// Command caped is everything of Cape that runs on the host. It holds
// ciphertext only; `caped dev` is the whole platform on one machine.
package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/signal"
	"runtime"
	"syscall"

	"github.com/spf13/cobra"
)

// revision is set by the build.
var revision = "unknown"

func main() {
	if err := run(os.Args[1:]); err != nil {
		fmt.Fprintln(os.Stderr, "Error:", err)
		os.Exit(1)
	}
}

// run executes one command; SIGINT and SIGTERM end it in an orderly way, a
// second one at once.
func run(args []string) error {
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGINT, syscall.SIGTERM)
	defer stop()
	context.AfterFunc(ctx, stop)
	root := rootCommand()
	root.SetArgs(args)
	err := root.ExecuteContext(ctx)
	if errors.Is(err, context.Canceled) && ctx.Err() != nil {
		return errors.New("interrupted")
	}
	return err
}

func rootCommand() *cobra.Command {
	root := &cobra.Command{
		Use:           "caped",
		Short:         "The host's side of Cape: carries ciphertext, starts enclaves",
		Long:          "caped runs on the host. It stores and carries ciphertext and starts enclaves; it never sees plaintext.\n\nTo try Cape on this machine, without a cloud account: caped dev\nIn production: caped serve (control plane), caped worker (enclaves), caped kms init",
		SilenceUsage:  true,
		SilenceErrors: true,
	}
	root.AddCommand(devCommand(), serveCommand(), workerCommand(), kmsCommand(), doctorCommand(), versionCommand())
	return root
}

func versionCommand() *cobra.Command {
	return &cobra.Command{
		Use: "version", Short: "Print what this binary was built from", Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			_, err := fmt.Fprintf(cmd.OutOrStdout(), "caped %s (%s, %s/%s)\n", revision, runtime.Version(), runtime.GOOS, runtime.GOARCH)
			return err
		},
	}
}
