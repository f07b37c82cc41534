package cli

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"maps"
	"os/exec"
	"path/filepath"
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
	var source string
	cmd := &cobra.Command{
		Use:   "get-pcrs [IMAGE]",
		Short: "Print measurements of an image, of a source tree, or of a server",
		Long: `Print the measurements of an enclave image: of the file IMAGE; of the image that a source
tree builds, with --source; or, without either, of the enclaves that the server says it runs.
Nothing vouches for what the server says: it is for comparing with the measurements
that you or the publisher of the image took.`,
		Example: `  cape get-pcrs
  cape get-pcrs cape-runtime.eif
  cape get-pcrs --source ~/src/cape
  cape get-pcrs -o json | jq -r .Measurements.PCR0`,
		Args: args(0, 1, ""),
		RunE: func(cmd *cobra.Command, given []string) error {
			switch {
			case source != "" && len(given) > 0:
				return fmt.Errorf("%w: give an image or --source", errUsage)
			case source != "":
				return a.sourcePCRs(cmd.Context(), source)
			case len(given) > 0:
				return a.imagePCRs(cmd.Context(), given[0])
			}
			c, err := a.connect(nil, wishes{})
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
	cmd.Flags().StringVar(&source, "source", "", "build the image of the source tree in this `folder` (make image), and measure it")
	return cmd
}

// imagePCRs measures a file.
func (a *app) imagePCRs(ctx context.Context, name string) error {
	image, err := a.readImage(ctx, name)
	if err != nil {
		return err
	}
	return a.showMeasurements(image.Measurements.Map())
}

// sourcePCRs has the production image built, and measures it.
func (a *app) sourcePCRs(ctx context.Context, dir string) error {
	cmd := exec.CommandContext(ctx, "make", "-C", dir, "image")
	cmd.Stdout, cmd.Stderr = a.Stderr, a.Stderr
	if err := cmd.Run(); err != nil {
		return fmt.Errorf("building the image in %s: %w", dir, err)
	}
	return a.imagePCRs(ctx, filepath.Join(dir, "bin", "cape-runtime.eif"))
}

// showMeasurements shows what was measured here.
func (a *app) showMeasurements(m map[string]string) error {
	if a.json() {
		return a.printJSON(pcrsOutput{Measurements: m})
	}
	return a.print([]byte(measurementsText(m)))
}

func measurementsText(m map[string]string) string {
	var b strings.Builder
	for _, name := range slices.SortedFunc(maps.Keys(m), byIndex) {
		if strings.HasPrefix(name, "PCR") {
			fmt.Fprintf(&b, "%s:\t%s\n", line(name), line(m[name]))
		}
	}
	return b.String()
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
			fmt.Fprintf(&b, "Revision %s\n", line(r.Revision))
		}
		b.WriteString(measurementsText(r.Measurements))
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
