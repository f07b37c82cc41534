package cli

import (
	"cmp"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"

	"github.com/spf13/cobra"

	"github.com/cape-functions/cape/core/wire"
)

// pcrsOutput has the form of nitro-cli's: the first release in Measurements. Releases
// holds all of them when there are several.
type pcrsOutput struct {
	Measurements map[string]string `json:"Measurements"`
	Releases     []wire.Release    `json:"Releases,omitempty"`
}

func (a *app) pcrsCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "get-pcrs",
		Short: "Print the measurements that the server says it runs",
		Long: `Print the measurements of the enclaves that the server says it runs. Nothing vouches for
them: they are for comparing with the measurements that you or the publisher of the
image took.`,
		Example: `  cape get-pcrs
  cape get-pcrs -o json | jq -r .Measurements.PCR0`,
		Args: args(0, 0, ""),
		RunE: func(cmd *cobra.Command, _ []string) error {
			c, err := a.connect(nil, nil)
			if err != nil {
				return err
			}
			defer c.Close()
			releases, err := c.Releases(cmd.Context())
			if err != nil {
				return err
			}
			if len(releases) == 0 {
				return errors.New("the server names no release")
			}
			return a.showPCRs(releases)
		},
	}
}

func (a *app) showPCRs(releases []wire.Release) error {
	if a.json() {
		out := pcrsOutput{Measurements: releases[0].Measurements}
		if len(releases) > 1 {
			out.Releases = releases
		}
		return a.printJSON(out)
	}
	var b strings.Builder
	for i, r := range releases {
		if i > 0 {
			b.WriteString("\n")
		}
		if len(releases) > 1 {
			fmt.Fprintf(&b, "Revision %s\n", clean(r.Revision))
		}
		for _, name := range slices.SortedFunc(maps.Keys(r.Measurements), byIndex) {
			if strings.HasPrefix(name, "PCR") {
				fmt.Fprintf(&b, "%s:\t%s\n", clean(name), clean(r.Measurements[name]))
			}
		}
	}
	a.note("This is what the server says of itself; nothing vouches for it.")
	return a.print([]byte(b.String()))
}

// byIndex sorts PCR2 before PCR16.
func byIndex(x, y string) int {
	index := func(s string) int {
		i, err := strconv.Atoi(strings.TrimPrefix(s, "PCR"))
		if err != nil {
			return -1
		}
		return i
	}
	return cmp.Or(cmp.Compare(index(x), index(y)), cmp.Compare(x, y))
}
