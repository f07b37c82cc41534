package cli

import (
	"cmp"
	"runtime"
	"runtime/debug"

	"github.com/spf13/cobra"
)

type versionOutput struct {
	Version  string `json:"version"`
	Revision string `json:"revision,omitempty"`
	Modified bool   `json:"modified,omitempty"`
	Go       string `json:"go"`
}

// versionOf returns what the build and the Go linker noted.
func (a *app) versionOf() versionOutput {
	v := versionOutput{Version: "(devel)", Revision: a.Revision, Go: runtime.Version()}
	info, ok := debug.ReadBuildInfo()
	if !ok {
		return v
	}
	if info.Main.Version != "" {
		v.Version = info.Main.Version
	}
	for _, s := range info.Settings {
		switch s.Key {
		case "vcs.revision":
			v.Revision = cmp.Or(v.Revision, s.Value)
		case "vcs.modified":
			v.Modified = s.Value == "true"
		}
	}
	return v
}

func (a *app) versionCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "version",
		Short: "Print the version",
		Args:  args(0, 0, ""),
		RunE: func(*cobra.Command, []string) error {
			v := a.versionOf()
			if a.json() {
				return a.printJSON(v)
			}
			text := v.Version
			if v.Revision != "" {
				text += " " + v.Revision
			}
			return a.print([]byte(text + "\n"))
		},
	}
}
