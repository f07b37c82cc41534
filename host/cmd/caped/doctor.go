package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"

	"github.com/cape-functions/cape/host/internal/launcher/process"
)

// check is one line of the doctor's table.
type check struct {
	Name     string `json:"name"`
	OK       bool   `json:"ok"`
	Required bool   `json:"required"` // without it caped dev does not start
	Detail   string `json:"detail"`   // what was found, or what to do
}

var errUnfit = errors.New("caped dev cannot run here: see the lines that say MISSING")

func doctorCommand() *cobra.Command {
	var python, runtime, output string
	cmd := &cobra.Command{
		Use:   "doctor",
		Short: "Show what this machine offers to enclaves",
		Long: `Shows what this machine offers to enclaves, line by line. What is missing matters where it says
MISSING; the other lines tell which kinds of enclaves and which layers of protection can be had.`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			ctx, cancel := context.WithTimeout(cmd.Context(), time.Minute)
			defer cancel()
			checks := append([]check{pythonCheck(ctx, python), runtimeCheck(runtime)}, machineChecks(ctx)...)
			if checks[0].OK && checks[1].OK {
				checks = append(checks, jailChecks(ctx, checks[1].Detail, python)...)
			}
			if err := printChecks(cmd.OutOrStdout(), output, checks); err != nil {
				return err
			}
			for _, c := range checks {
				if c.Required && !c.OK {
					return errUnfit
				}
			}
			return nil
		},
	}
	cmd.Flags().StringVar(&python, "python", "python3", "interpreter for functions, 3.9 or newer")
	cmd.Flags().StringVar(&runtime, "runtime", "", "path of cape-runtime-dev (default: beside caped)")
	cmd.Flags().StringVarP(&output, "output", "o", "plain", "print as plain or json")
	return cmd
}

func printChecks(w io.Writer, output string, checks []check) error {
	switch output {
	case "json":
		return json.NewEncoder(w).Encode(checks)
	case "plain":
	default:
		return fmt.Errorf("--output %s: use plain or json", output)
	}
	t := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	for _, c := range checks {
		state := "yes"
		if !c.OK && c.Required {
			state = "MISSING"
		} else if !c.OK {
			state = "no"
		}
		fmt.Fprintf(t, "%s\t%s\t%s\n", c.Name, state, c.Detail)
	}
	return t.Flush()
}

const askPython = `import sys; print("%d.%d.%d %s" % (*sys.version_info[:3], sys.executable)); sys.exit(sys.version_info < (3, 9))`

func pythonCheck(ctx context.Context, python string) check {
	out, err := exec.CommandContext(ctx, python, "-I", "-c", askPython).Output()
	if err != nil {
		return check{"Python 3.9 or newer", false, true, "install it, or name one with --python"}
	}
	return check{"Python 3.9 or newer", true, true, strings.TrimSpace(string(out))}
}

func runtimeCheck(path string) check {
	path, err := runtimePath(path)
	if err != nil {
		return check{"runtime", false, true, err.Error()}
	}
	if info, err := os.Stat(path); err != nil || !info.Mode().IsRegular() {
		return check{"runtime", false, true, "none at " + path + ": run make build, or name it with --runtime"}
	}
	return check{"runtime", true, true, path}
}

// jailChecks lists the layers of the jail in which functions run.
func jailChecks(ctx context.Context, runtime, python string) []check {
	layers, err := process.Layers(ctx, runtime, python)
	if err != nil {
		return []check{{"jail", false, true, err.Error()}}
	}
	checks := make([]check, 0, len(layers))
	for _, l := range layers {
		checks = append(checks, check{"jail: " + l.Name, l.On, false, l.Why})
	}
	return checks
}

// runtimePath is where the runtime of process enclaves is: beside this binary
// unless somebody named another.
func runtimePath(named string) (string, error) { return besideCaped(named, "cape-runtime-dev") }
