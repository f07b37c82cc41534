package cli

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"time"

	"github.com/spf13/cobra"
	"golang.org/x/term"

	"github.com/cape-functions/cape/client/internal/config"
)

// Exit statuses.
const (
	exitOK          = 0
	exitFailed      = 1
	exitInterrupted = 130
)

// grace is how long a command may tidy up after an interrupt.
const grace = 700 * time.Millisecond

// IO is all that the command sees of its surroundings.
type IO struct {
	Args   []string // without the program's name
	Stdin  io.Reader
	Stdout io.Writer
	Stderr io.Writer
	Getenv func(string) (string, bool)
	Home   string
	Now    func() time.Time
	// Terminal tells whether a stream is one on which somebody looks and types.
	Terminal func(stream any) bool
	// Revision is the commit that the build was told of; empty: what Go noted.
	Revision string
}

// app is one run of the command.
type app struct {
	IO
	flags struct {
		presets, output, url, rootCert, protocol string
		verbose, insecure, firstUse              bool
	}
	notices *notices
	loaded  *config.Settings
	writes  bool          // the presets file is about to be written, and may be new
	answers *bufio.Reader // of questions on a terminal
}

// errUsage marks errors in how the command was called.
var errUsage = errors.New("usage")

// Run runs the command and returns its exit status. When ctx ends it returns within a
// second, even if something reads from a terminal that says nothing.
func Run(ctx context.Context, surroundings IO) int {
	a := &app{IO: surroundings}
	a.notices = &notices{app: a}
	done := make(chan error, 1)
	go func() { done <- a.execute(ctx) }()
	var err error
	select {
	case err = <-done:
	case <-ctx.Done():
		select {
		case err = <-done:
		case <-time.After(grace):
			err = ctx.Err()
		}
	}
	switch {
	case err == nil:
		return exitOK
	case ctx.Err() != nil:
		fmt.Fprintln(a.Stderr, "Interrupted.")
		return exitInterrupted
	}
	a.report(err)
	return exitFailed
}

func (a *app) execute(ctx context.Context) error {
	root := a.root()
	root.SetArgs(a.Args)
	root.SetIn(a.Stdin)
	root.SetOut(a.Stdout)
	root.SetErr(a.Stderr)
	root.InitDefaultCompletionCmd()                                   // it writes where root does by now
	if cmd, _, err := root.Find([]string{"completion"}); err == nil { // a shell that it does not know is an error
		cmd.Args, cmd.RunE = args(0, 0, ""), func(cmd *cobra.Command, _ []string) error { return cmd.Help() }
	}
	return root.ExecuteContext(ctx)
}

func (a *app) root() *cobra.Command {
	root := &cobra.Command{
		Use:   "cape",
		Short: "Run functions in secure enclaves that you verified",
		Long: `cape deploys Python functions to secure enclaves and runs them there. Before it sends
anything it verifies the enclave's attestation document, and it compares every result
with what the enclave signed.`,
		Example: `  cape function create hello
  cape deploy hello
  cape run dev/hello 'some input'
  cape encrypt 'a secret' | cape run dev/hello -f -`,
		SilenceErrors: true,
		SilenceUsage:  true,
		PersistentPreRunE: func(cmd *cobra.Command, _ []string) error {
			if o := a.flags.output; o != "plain" && o != "json" {
				return fmt.Errorf("%w: --output is plain or json, not %.40q", errUsage, o)
			}
			return nil
		},
	}
	root.SetFlagErrorFunc(func(_ *cobra.Command, err error) error { return fmt.Errorf("%w: %w", errUsage, err) })
	f := root.PersistentFlags()
	f.StringVarP(&a.flags.presets, "config", "c", "", "presets `file` ($HOME/.config/cape/presets.json)")
	f.StringVarP(&a.flags.output, "output", "o", "plain", "plain or json")
	f.BoolVarP(&a.flags.verbose, "verbose", "v", false, "say on stderr what was verified")
	f.StringVarP(&a.flags.url, "url", "u", "", "server, as https://host")
	f.BoolVar(&a.flags.insecure, "insecure", false, "leave the server's TLS certificate unchecked")
	f.StringVar(&a.flags.rootCert, "root-cert", "", "PEM `file` of the attestation root to accept from this server")
	f.BoolVar(&a.flags.firstUse, "trust-first-use", false, "trust a server, or account, that is not known yet without asking")
	f.StringVar(&a.flags.protocol, "protocol", "", "v2, or v1 as the original platform spoke: results and tokens are then visible to the server")
	_ = f.MarkHidden("url")      // the flag is two lines above
	_ = f.MarkHidden("insecure") // and so is this one
	a.complete(root, "output", "plain", "json")
	a.complete(root, "protocol", "v2", "v1")
	root.AddCommand(a.deployCommand(), a.runCommand(), a.testCommand(), a.verifyCommand(), a.encryptCommand(), a.keyCommand(), a.accountCommand(),
		a.listCommand(), a.deleteCommand(), a.functionCommand(), a.pcrsCommand(), a.trustCommand(),
		a.attestCommand(), a.eifCommand(), a.configCommand(), a.versionCommand())
	return root
}

// complete lets the shell complete the values of a flag.
func (a *app) complete(cmd *cobra.Command, flag string, values ...string) {
	err := cmd.RegisterFlagCompletionFunc(flag, cobra.FixedCompletions(values, cobra.ShellCompDirectiveNoFileComp))
	if err != nil {
		panic(err) // the flag is there
	}
}

// args is a cobra.PositionalArgs that says what is missing.
func args(least, most int, what string) cobra.PositionalArgs {
	return func(_ *cobra.Command, given []string) error {
		switch {
		case len(given) < least:
			return fmt.Errorf("%w: %s is missing", errUsage, what)
		case len(given) > most:
			return fmt.Errorf("%w: too many arguments: %.60q", errUsage, given[most])
		}
		return nil
	}
}

func (a *app) json() bool { return a.flags.output == "json" }

// settings reads the configuration once.
func (a *app) settings() (*config.Settings, error) {
	if a.loaded != nil {
		return a.loaded, nil
	}
	flags := map[string]string{}
	if a.flags.url != "" {
		flags[config.EnclaveHost], flags[config.AuthHost] = a.flags.url, a.flags.url
	}
	if a.flags.rootCert != "" {
		flags[config.RootCert] = a.flags.rootCert
	}
	if a.flags.protocol != "" {
		flags[config.Protocol] = a.flags.protocol
	}
	if a.flags.insecure {
		flags[config.DisableTLS] = "true"
	}
	s, err := config.Load(config.Input{Flags: flags, Presets: a.flags.presets, Create: a.writes, Getenv: a.Getenv, Home: a.Home})
	if err == nil {
		a.loaded = s
	}
	return s, err
}

// Terminal tells whether a stream is one.
func Terminal(stream any) bool {
	f, ok := stream.(*os.File)
	return ok && term.IsTerminal(int(f.Fd()))
}

// canAsk tells whether somebody sits there who can answer a question.
func (a *app) canAsk() bool { return a.Terminal(a.Stdin) && a.Terminal(a.Stderr) }

// note writes a line for people.
func (a *app) note(format string, values ...any) {
	fmt.Fprintln(a.Stderr, clean(fmt.Sprintf(format, values...)))
}
