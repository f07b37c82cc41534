package cli

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"github.com/spf13/cobra"

	"github.com/cape-functions/cape/client"
	"github.com/cape-functions/cape/client/internal/vendoring"
)

const templateApp = `def cape_handler(input: bytes) -> bytes:
    """Gets the caller's input and returns the result; bytes pass as they are."""
    text = input.decode()
    return text.encode()
`

const templateRequirements = "# One package a line, as in numpy==2.3.1; then: cape function vendor FOLDER\n"

func (a *app) functionCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "function",
		Short: "Make and prepare functions",
		Args:  args(0, 0, ""),
		RunE:  func(cmd *cobra.Command, _ []string) error { return cmd.Help() },
	}
	cmd.AddCommand(a.functionCreate(), a.functionVendor())
	return cmd
}

func (a *app) functionCreate() *cobra.Command {
	var location string
	cmd := &cobra.Command{
		Use:     "create NAME",
		Short:   "Make a folder with a small function",
		Example: `  cape function create hello --location ~/functions`,
		Args:    args(1, 1, "the function's name"),
		RunE: func(_ *cobra.Command, given []string) error {
			if !client.ValidName(given[0]) {
				return fmt.Errorf("%w: %.100q cannot name a function: use letters, digits, '.', '_' and '-'", errUsage, given[0])
			}
			dir := filepath.Join(location, given[0])
			if err := os.Mkdir(dir, 0o755); err != nil {
				if errors.Is(err, fs.ErrExist) {
					return fmt.Errorf("%s is there already", dir)
				}
				return err
			}
			for name, text := range map[string]string{"app.py": templateApp, "requirements.txt": templateRequirements} {
				if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o644); err != nil {
					return err
				}
			}
			if a.json() {
				return a.printJSON(map[string]string{"path": dir})
			}
			a.note("Made %s. Deploy it with: cape deploy %s", dir, dir)
			return nil
		},
	}
	cmd.Flags().StringVarP(&location, "location", "l", ".", "`folder` in which to make it")
	return cmd
}

func (a *app) functionVendor() *cobra.Command {
	var python string
	var bytecode bool
	target := vendoring.Target{}
	cmd := &cobra.Command{
		Use:   "vendor FOLDER",
		Short: "Fetch the dependencies of a function into its folder",
		Long: `Fetch what requirements.txt of the folder asks for into the folder, as wheels for the
Python and platform of the server's enclaves, by the pip of this machine. What an
earlier call fetched is replaced. The same versions give the same function checksum.

With --bytecode they are compiled here as well, so that a large package is imported in
half of the time or less where no process waits. The checksum then depends on the exact version of
the Python that compiled, and whoever compares the function with its source has to compile it too.`,
		Example: `  cape function vendor ./stats
  cape function vendor ./stats --python-version 3.11 --platform linux-x86_64`,
		Args: args(1, 1, "the folder"),
		RunE: func(cmd *cobra.Command, given []string) error {
			if target.Python == "" || target.Platform == "" {
				if err := a.serverTarget(cmd, &target); err != nil {
					return err
				}
			}
			a.note("Fetching for Python %s on %s.", target.Python, target.Platform)
			r, err := vendoring.Vendor(cmd.Context(), vendoring.Options{Dir: given[0], Target: target, Python: python, Bytecode: bytecode, Log: a.Stderr})
			if err != nil {
				return err
			}
			if a.json() {
				return a.printJSON(map[string]any{"packages": r.Packages, "entries": r.Entries, "python": target.Python, "platform": target.Platform})
			}
			return a.print([]byte(strings.Join(r.Packages, "\n") + "\n"))
		},
	}
	fl := cmd.Flags()
	fl.StringVar(&python, "python", "", "interpreter whose pip is used (python3 or python)")
	fl.BoolVar(&bytecode, "bytecode", false, "also compile, by a Python of the enclave's version (python3.11)")
	fl.StringVar(&target.Python, "python-version", "", "version of the enclave's Python, if the server is not to be asked")
	fl.StringVar(&target.Platform, "platform", "", "platform of the enclave, such as linux-x86_64")
	return cmd
}

// serverTarget fills in what the server says that it runs.
func (a *app) serverTarget(cmd *cobra.Command, t *vendoring.Target) error {
	c, err := a.connect(nil, wishes{})
	if err != nil {
		return fmt.Errorf("asking for the enclave's Python: %w", err)
	}
	defer c.Close()
	releases, err := c.Releases(cmd.Context())
	if err != nil {
		return fmt.Errorf("asking for the enclave's Python: %w", err)
	}
	if len(releases) == 0 {
		return errors.New("the server says of no release what it runs: give --python-version and --platform")
	}
	if t.Python == "" {
		t.Python = releases[0].Python
	}
	if t.Platform == "" {
		t.Platform = releases[0].Platform
	}
	return nil
}
