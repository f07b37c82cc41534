package cli

import (
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"github.com/cape-functions/cape/client/trust"
	"github.com/cape-functions/cape/core/wire"
)

// errNotKnown: the trust file has no such entry.
var errNotKnown = errors.New("nothing is remembered of it")

func (a *app) trustCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "trust",
		Short: "Show, change or forget what is trusted",
		Long: `The trust file (trust.json in the configuration directory) remembers the enclaves of each
server, as SSH remembers host keys, and which code each function was.`,
		Args: args(0, 0, ""),
		RunE: func(cmd *cobra.Command, _ []string) error { return cmd.Help() },
	}
	cmd.AddCommand(a.trustShow(), a.trustPin(), a.trustForget())
	return cmd
}

// trustStore returns the trust file, and the origin of the argument or, without one, of
// the configured server, empty if none is set.
func (a *app) trustStore(given []string) (*trust.Store, string, error) {
	s, err := a.settings()
	if err != nil {
		return nil, "", err
	}
	store := trust.NewStore(s.InDir("trust.json"))
	if len(given) > 0 {
		origin, err := trust.Origin(given[0])
		return store, origin, err
	}
	server, err := s.Server()
	if err != nil {
		return store, "", nil
	}
	origin, err := trust.Origin(server)
	return store, origin, err
}

func (a *app) trustShow() *cobra.Command {
	return &cobra.Command{
		Use:     "show [SERVER]",
		Short:   "Show what is trusted, of one server or of all",
		Example: "  cape trust show https://cape.example.com",
		Args:    args(0, 1, ""),
		RunE: func(_ *cobra.Command, given []string) error {
			store, origin, err := a.trustStore(given)
			if err != nil {
				return err
			}
			f, err := store.Load()
			if err != nil {
				return err
			}
			if len(given) > 0 {
				if f.Origins[origin] == nil {
					return fmt.Errorf("%s: %w", origin, errNotKnown)
				}
				f.Origins = map[string]*wire.TrustOrigin{origin: f.Origins[origin]}
			}
			if a.json() {
				return a.printJSON(f)
			}
			if len(f.Origins) == 0 {
				a.note("No server is known.")
			}
			for _, name := range slices.Sorted(maps.Keys(f.Origins)) {
				if err := a.print([]byte(entryText(name, f.Origins[name]))); err != nil {
					return err
				}
			}
			return nil
		},
	}
}

func entryText(origin string, e *wire.TrustOrigin) string {
	var b strings.Builder
	root := "AWS Nitro Enclaves"
	if e.Development {
		root = "DEVELOPMENT: not AWS's"
	}
	fmt.Fprintf(&b, "%s\n  since       %s\n  root        %s (%s)\n", line(origin), e.Added, e.Root, root)
	for _, i := range slices.SortedFunc(maps.Keys(e.PCRs), byIndex) {
		fmt.Fprintf(&b, "  PCR%-8s %s\n", i, strings.Join(e.PCRs[i], "\n              "))
	}
	if e.KeyPolicy != "" {
		fmt.Fprintf(&b, "  key policy  %s\n", e.KeyPolicy)
	}
	if e.KMS != "" {
		fmt.Fprintf(&b, "  KMS key     %s\n", e.KMS)
	}
	if e.Trust != nil {
		fmt.Fprintf(&b, "  believes    %s\n", line(trust.EncodedText(e.Trust)))
	}
	for _, user := range slices.Sorted(maps.Keys(e.Accounts)) {
		fmt.Fprintf(&b, "  user        %s  account %s\n", line(user), e.Accounts[user])
	}
	for _, name := range slices.Sorted(maps.Keys(e.Names)) {
		n := e.Names[name]
		fmt.Fprintf(&b, "  name        %s  %s", line(name), n.Checksum)
		if n.Account != "" {
			fmt.Fprintf(&b, "  account %s  version %d", n.Account, n.Seq)
		}
		b.WriteString("\n")
	}
	for _, id := range slices.Sorted(maps.Keys(e.Functions)) {
		fmt.Fprintf(&b, "  function    %s  %s\n", line(id), e.Functions[id])
	}
	return b.String()
}

func (a *app) trustForget() *cobra.Command {
	var function string
	cmd := &cobra.Command{
		Use:   "forget [SERVER]",
		Short: "Forget a server, or one function of it",
		Long: `Forget a server: the next contact is a first contact again. With --function forget only
what an id, user/name, or user, meant. Without an argument the configured server is meant.`,
		Example: `  cape trust forget https://cape.example.com
  cape trust forget --function dev/isprime`,
		Args: args(0, 1, ""),
		RunE: func(cmd *cobra.Command, given []string) error {
			store, origin, err := a.trustStore(given)
			if err != nil {
				return err
			}
			if origin == "" {
				return fmt.Errorf("%w: the server is missing", errUsage)
			}
			what := origin
			if function != "" {
				what = function + " of " + origin
			}
			err = store.Update(cmd.Context(), func(f *wire.TrustFile) error {
				if !forget(f, origin, function) {
					return fmt.Errorf("%s: %w", what, errNotKnown)
				}
				return nil
			})
			if err != nil {
				return err
			}
			if a.json() {
				return a.printJSON(map[string]any{"origin": origin, "function": function, "forgotten": true})
			}
			a.note("Forgot %s.", what)
			return nil
		},
	}
	cmd.Flags().StringVar(&function, "function", "", "forget this `id`, user/name or user alone")
	return cmd
}

// forget returns whether there was something to forget.
func forget(f *wire.TrustFile, origin, function string) bool {
	e := f.Origins[origin]
	switch {
	case e == nil:
		return false
	case function == "":
		delete(f.Origins, origin)
		return true
	}
	user, _, _ := strings.Cut(function, "/")
	known := e.Functions[function] != "" || e.Names[function] != nil || e.Accounts[function] != ""
	delete(e.Functions, function)
	delete(e.Names, function)
	delete(e.Accounts, user) // whoever has the name next is to be looked at
	return known
}
