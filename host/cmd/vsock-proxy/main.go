// Command vsock-proxy forwards vsock connections of an enclave to allow-listed
// TCP endpoints.
package main

import (
	"context"
	"fmt"
	"os"
	"os/signal"
	"syscall"
)

// revision is set when the program is built.
var revision = "unknown"

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	err := run(ctx, os.Args[1:], os.Stdout, os.Stderr)
	stop()
	if err != nil {
		fmt.Fprintf(os.Stderr, "Error: %v\n", err)
		os.Exit(1)
	}
}
