// Command cape deploys functions to secure enclaves and runs them there.
package main

import (
	"context"
	"os"
	"os/signal"
	"syscall"
	"time"

	"github.com/cape-functions/cape/client/internal/cli"
)

// revision is set by the build.
var revision = ""

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	home, err := os.UserHomeDir()
	if err != nil {
		home = "." // files that a setting names are still found
	}
	status := cli.Run(ctx, cli.IO{
		Args: os.Args[1:], Stdin: os.Stdin, Stdout: os.Stdout, Stderr: os.Stderr,
		Getenv: os.LookupEnv, Home: home, Now: time.Now, Terminal: cli.Terminal, Revision: revision,
	})
	stop()
	os.Exit(status)
}
