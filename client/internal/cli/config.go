package cli

import (
	"fmt"
	"strings"

	"github.com/spf13/cobra"

	"github.com/cape-functions/cape/client/internal/config"
)

type configOutput struct {
	Value  string `json:"value"`
	Source string `json:"source,omitempty"`
}

func (a *app) configCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "config [KEY [VALUE]]",
		Short: "Show or change settings",
		Long: `Without arguments: show all settings and where each comes from. With a key: show its
value. With key and value: write it to the presets file; an empty value removes it.

What counts first: flags, environment (CAPE_ and the key in upper case), presets file,
a caped dev on this machine, defaults.

Keys:
` + configHelp(),
		Example: `  cape config
  cape config enclave_host https://cape.example.com`,
		Args: args(0, 2, ""),
		RunE: func(cmd *cobra.Command, given []string) error {
			a.writes = len(given) == 2
			s, err := a.settings()
			if err != nil {
				return err
			}
			switch len(given) {
			case 0:
				return a.showSettings(s)
			case 1:
				if !config.Known(given[0]) {
					return fmt.Errorf("%w: %.100q", config.ErrKey, given[0])
				}
				v := s.Get(given[0])
				if a.json() {
					return a.printJSON(map[string]configOutput{given[0]: {v.Text, string(v.Source)}})
				}
				return a.print([]byte(v.Text + "\n"))
			}
			if err := config.Set(cmd.Context(), s.PresetsPath, given[0], given[1]); err != nil {
				return err
			}
			if a.json() {
				return a.printJSON(map[string]configOutput{given[0]: {given[1], string(config.Presets)}})
			}
			a.note("Wrote %s to %s.", given[0], s.PresetsPath)
			return nil
		},
		ValidArgsFunction: func(_ *cobra.Command, given []string, _ string) ([]string, cobra.ShellCompDirective) {
			if len(given) > 0 {
				return nil, cobra.ShellCompDirectiveDefault
			}
			var names []string
			for _, k := range config.Keys() {
				names = append(names, k.Name+"\t"+k.Help)
			}
			return names, cobra.ShellCompDirectiveNoFileComp
		},
	}
}

func configHelp() string {
	var b strings.Builder
	for _, k := range config.Keys() {
		fmt.Fprintf(&b, "  %-24s %s\n", k.Name, k.Help)
	}
	return strings.TrimRight(b.String(), "\n")
}

func (a *app) showSettings(s *config.Settings) error {
	out := map[string]configOutput{}
	rows := [][]string{{"KEY", "VALUE", "FROM"}}
	for _, k := range config.Keys() {
		v := s.Get(k.Name)
		if k.Name == config.PresetsFile {
			v.Text = s.PresetsPath
			if v.Source == "" {
				v.Source = config.Default
			}
		}
		out[k.Name] = configOutput{v.Text, string(v.Source)}
		rows = append(rows, []string{k.Name, clean(v.Text), string(v.Source)})
	}
	if a.json() {
		return a.printJSON(out)
	}
	return a.print([]byte(table(rows)))
}
