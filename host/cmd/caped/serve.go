package main

import (
	"fmt"
	"net"

	"github.com/spf13/cobra"

	"github.com/cape-functions/cape/host/internal/control"
	"github.com/cape-functions/cape/host/internal/settings"
	"github.com/cape-functions/cape/host/internal/worker"
)

const configHelp = "`file` with settings, one \"name = value\" a line, named as the flags; flags go before it"

func serveCommand() *cobra.Command {
	var s settings.Serve
	var config string
	cmd := &cobra.Command{
		Use:   "serve",
		Short: "Run a control plane",
		Long: `Runs the control plane of a platform in production: it has the database and the store of
functions, answers clients, and hands sessions to workers (caped worker), on this machine or on
others. Clients' tokens are those of an OpenID Connect issuer.

SIGTERM drains it: /readyz fails for --drain-notice, then new connections are refused, and running
sessions have --drain to end. A second signal ends it at once.`,
		Example: "  caped serve --config /etc/cape/serve.conf\n  caped serve --issuer https://login.example.com/ --role arn:aws:iam::111122223333:role/cape --worker-token /etc/cape/worker-token",
		Args:    cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if config != "" {
				if err := settings.ReadFile(cmd.Flags(), config); err != nil {
					return err
				}
			}
			log, err := newLogger(cmd.ErrOrStderr(), s.Format, s.Verbose)
			if err != nil {
				return err
			}
			return control.Run(cmd.Context(), control.Options{Settings: s, Log: log, Ready: func(clients, workers net.Addr) {
				fmt.Fprintf(cmd.OutOrStdout(), "control plane serves clients at %s, workers at %s\n", clients, workers)
			}})
		},
	}
	s.Register(cmd.Flags())
	cmd.Flags().StringVar(&config, "config", "", configHelp)
	return cmd
}

func workerCommand() *cobra.Command {
	var w settings.Worker
	var config string
	cmd := &cobra.Command{
		Use:   "worker",
		Short: "Run enclaves for a control plane",
		Long: `Runs enclaves on this machine, tells the control plane of them, and carries sessions to them.
Enclaves get the credentials of the instance's role and reach KMS, STS and the issuer's key set,
and nothing else. A worker stores nothing.

SIGTERM drains it: the control plane sends no more sessions, running ones have --drain to end, and
the enclaves are ended. A second signal ends it at once.`,
		Example: "  caped worker --config /etc/cape/worker.conf\n  caped worker --control-plane https://control.internal:7680 --worker-token /etc/cape/worker-token --listen :7690 --address 10.0.0.7:7690",
		Args:    cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if config != "" {
				if err := settings.ReadFile(cmd.Flags(), config); err != nil {
					return err
				}
			}
			log, err := newLogger(cmd.ErrOrStderr(), w.Format, w.Verbose)
			if err != nil {
				return err
			}
			return worker.Run(cmd.Context(), worker.Options{Settings: w, Log: log, Launcher: backend(w, log), Ready: func(sessions net.Addr) {
				fmt.Fprintf(cmd.OutOrStdout(), "worker %s serves sessions at %s\n", w.Name, sessions)
			}})
		},
	}
	w.Register(cmd.Flags())
	cmd.Flags().StringVar(&config, "config", "", configHelp)
	return cmd
}
