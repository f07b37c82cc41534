package cli

import (
	"maps"
	"slices"

	"github.com/spf13/cobra"

	"github.com/cape-functions/cape/client/trust"
)

// functionNames completes names and ids that the trust file remembers: no server is
// asked, so that a press of the tab key sends nothing.
func (a *app) functionNames(idsOnly bool) func(*cobra.Command, []string, string) ([]string, cobra.ShellCompDirective) {
	return func(_ *cobra.Command, given []string, _ string) ([]string, cobra.ShellCompDirective) {
		if len(given) > 0 {
			return nil, cobra.ShellCompDirectiveNoFileComp
		}
		s, err := a.settings()
		if err != nil {
			return nil, cobra.ShellCompDirectiveError
		}
		server, err := s.Server()
		if err != nil {
			return nil, cobra.ShellCompDirectiveError
		}
		origin, err := trust.Origin(server)
		if err != nil {
			return nil, cobra.ShellCompDirectiveError
		}
		entry, err := trust.NewStore(s.InDir("trust.json")).Origin(origin)
		if err != nil || entry == nil {
			return nil, cobra.ShellCompDirectiveNoFileComp
		}
		names := slices.Sorted(maps.Keys(entry.Functions))
		if !idsOnly {
			names = append(slices.Sorted(maps.Keys(entry.Names)), names...)
		}
		return names, cobra.ShellCompDirectiveNoFileComp
	}
}
