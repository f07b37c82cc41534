package main

import (
	"encoding/hex"
	"errors"
	"fmt"
	"slices"

	"github.com/spf13/cobra"

	"github.com/cape-functions/cape/core/wire"
	"github.com/cape-functions/cape/host/internal/devcloud"
	"github.com/cape-functions/cape/host/internal/devserver"
	"github.com/cape-functions/cape/host/internal/kek"
	"github.com/cape-functions/cape/host/internal/settings"
	"github.com/cape-functions/cape/host/internal/worker"
)

func kmsCommand() *cobra.Command {
	cmd := &cobra.Command{Use: "kms", Short: "The key that wraps all others", Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error { return cmd.Help() }} // so that a misspelt subcommand is an error
	cmd.AddCommand(kmsInitCommand())
	return cmd
}

func kmsInitCommand() *cobra.Command {
	var w settings.Worker
	var config, dataDir string
	var request keyRequest
	cmd := &cobra.Command{
		Use:   "init",
		Short: "Have an enclave make the platform's key, and print its ARN",
		Long: `Boots an enclave without a key. It creates one in KMS under the final policy, which nobody can
change afterwards, and returns a birth document, which the control plane keeps. Run it once,
on a worker, with the worker's settings; the control plane must run.

The policy admits images of the certificates --pcr8 (by default the one that signed --image:
give the next epoch's as well, since the policy is final) and, with --pcr0, of these images
alone. Running it again fails and changes nothing.

Without --control-plane it makes the key of a development platform, in its --data-dir and with
the local KMS there, or prints the one that is there. caped dev does that by itself at its first
start. The policy of such a key is fixed: --pcr8, --pcr0 and --admin are refused.`,
		Example: "  caped kms init --config /etc/cape/worker.conf --admin arn:aws:iam::111122223333:role/KeyAdmin --pcr8 $THIS --pcr8 $NEXT\n  caped kms init --data-dir /tmp/try",
		Args:    cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if config != "" {
				if err := settings.ReadFile(cmd.Flags(), config); err != nil {
					return err
				}
			}
			var arn string
			var err error
			if w.Control == "" {
				arn, err = initDevelopment(cmd, &w, dataDir)
			} else {
				arn, err = initProduction(cmd, w, request)
			}
			if err != nil {
				return err
			}
			_, err = fmt.Fprintln(cmd.OutOrStdout(), arn)
			return err
		},
	}
	w.Register(cmd.Flags())
	cmd.Flags().StringVar(&config, "config", "", "`file` with settings, one \"name = value\" a line; flags go before it")
	cmd.Flags().StringVar(&dataDir, "data-dir", "", "of a development platform (default $XDG_DATA_HOME/cape/dev)")
	request.register(cmd)
	return cmd
}

// initDevelopment makes the key of a `caped dev` that does not run.
func initDevelopment(cmd *cobra.Command, w *settings.Worker, dataDir string) (string, error) {
	f := devFlags{dataDir: dataDir, enclave: "process", python: w.Development.Python, runtime: w.Development.Runtime, logFormat: w.Format, verbose: w.Verbose}
	changed := cmd.Flags().Changed
	for _, flag := range []string{"pcr8", "pcr0", "admin"} {
		if changed(flag) {
			return "", fmt.Errorf("--%s is for a platform in production: name its settings with --config, or its --control-plane", flag)
		}
	}
	if changed("enclave") {
		f.enclave = w.Enclave.Kind
	}
	if changed("image") {
		f.image = w.Enclave.Image
	}
	if changed("memory") {
		f.memory = w.Enclave.Memory
	}
	if changed("cpus") {
		f.cpus = w.Enclave.CPUs
	}
	opts, err := f.options(cmd.ErrOrStderr())
	if err != nil {
		return "", err
	}
	return devserver.InitKMS(cmd.Context(), opts)
}

func initProduction(cmd *cobra.Command, w settings.Worker, r keyRequest) (string, error) {
	log, err := newLogger(cmd.ErrOrStderr(), w.Format, w.Verbose)
	if err != nil {
		return "", err
	}
	w.Name += "-init" // a worker of this name may be waiting for the key
	opts := worker.Options{Settings: w, Log: log, Launcher: backend(w, log)}
	request, err := r.build(w.Development.Dir != "")
	if err != nil {
		return "", err
	}
	if len(request.PCR8) == 0 {
		m, err := worker.Measurements(cmd.Context(), opts)
		if err != nil {
			return "", err
		}
		signer, err := register(m["PCR8"])
		if err != nil {
			return "", fmt.Errorf("the image's PCR8: %w; sign it with cape eif sign", err)
		}
		request.PCR8 = [][]byte{signer}
		log.Warn("the key's policy will admit one signing certificate and can never be changed: when it is lost, so is everything that is stored", "hint", "give this one and the next one's with --pcr8")
	}
	arn, err := worker.Init(cmd.Context(), opts, request)
	if errors.Is(err, kek.ErrExists) {
		return "", fmt.Errorf("%w; nothing was changed", err)
	}
	return arn, err
}

// keyRequest are the parameters of a key's policy.
type keyRequest struct {
	admins, pcr0, pcr8 []string
}

func (r *keyRequest) register(cmd *cobra.Command) {
	f := cmd.Flags()
	f.StringArrayVar(&r.admins, "admin", nil, "`ARN` that may describe, disable and delete the key, and nothing more; may be repeated")
	f.StringArrayVar(&r.pcr8, "pcr8", nil, "PCR8 (`hex`) of a certificate whose images may use the key; may be repeated")
	f.StringArrayVar(&r.pcr0, "pcr0", nil, "PCR0 (`hex`) of an image that may use the key; without any, all images of --pcr8; may be repeated")
}

func (r *keyRequest) build(development bool) (wire.KEKRequest, error) {
	out := wire.KEKRequest{Admins: slices.Clone(r.admins), PCR0: [][]byte{}, PCR8: [][]byte{}}
	if out.Admins == nil {
		out.Admins = []string{}
	}
	if development && len(out.Admins) == 0 {
		out.Admins = []string{devcloud.AdminARN}
	}
	for _, set := range []struct {
		flag string
		text []string
		to   *[][]byte
	}{{"--pcr0", r.pcr0, &out.PCR0}, {"--pcr8", r.pcr8, &out.PCR8}} {
		for _, s := range set.text {
			b, err := register(s)
			if err != nil {
				return out, fmt.Errorf("%s %q: %w", set.flag, s, err)
			}
			*set.to = append(*set.to, b)
		}
	}
	return out, nil
}

var errRegister = errors.New("needs 96 hexadecimal digits that are not all zero")

func register(text string) ([]byte, error) {
	b, err := hex.DecodeString(text)
	if err != nil || len(b) != 48 || !slices.ContainsFunc(b, func(x byte) bool { return x != 0 }) {
		return nil, errRegister
	}
	return b, nil
}
