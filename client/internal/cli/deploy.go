package cli

import (
	"encoding/hex"
	"errors"
	"fmt"

	"github.com/spf13/cobra"

	"github.com/cape-functions/cape/client"
)

type deployOutput struct {
	ID       string `json:"function_id"`
	Checksum string `json:"function_checksum"`
	Name     string `json:"function_name,omitempty"`
}

func (a *app) deployCommand() *cobra.Command {
	var token, name string
	var pcrs []string
	var public bool
	cmd := &cobra.Command{
		Use:   "deploy {FOLDER | ZIP}",
		Short: "Deploy a function",
		Long: `Encrypt a function so that only attested enclaves can read it, and upload it.

The function is a folder with an app.py, or a zip of one. Its name is that of the folder,
or of the zip without ".zip", unless --name gives another. The checksum that is printed
is the SHA-256 of what was deployed; give it to callers for --function-checksum.`,
		Example: `  cape deploy ./hello
  cape deploy hello.zip --name greeting --public`,
		Args: args(1, 1, "the folder or zip"),
		RunE: func(cmd *cobra.Command, given []string) error {
			who, err := a.caller(token)
			if err != nil {
				return err
			}
			c, err := a.connect(&who, pcrs)
			if err != nil {
				return err
			}
			defer c.Close()
			p, err := client.Pack(cmd.Context(), given[0], "")
			if err != nil {
				return err
			}
			defer p.Close()
			if name == "" && !client.ValidName(p.Name) {
				return fmt.Errorf("%w: %.100q cannot name a function (letters, digits, '.', '_' and '-'); give a name with --name", errUsage, p.Name)
			}
			bar := a.progress("Deploying")
			p.Progress = bar.update
			d, err := c.Deploy(cmd.Context(), p, client.DeployOptions{Name: name, Public: public, Username: who.username})
			bar.done()
			if d == nil {
				return err
			}
			a.showChecks("the enclave that made your Cape Key", d.KeyEvidence)
			a.showChecks("the enclave that took the function", d.Evidence)
			// It is deployed even if it could not be remembered.
			return errors.Join(a.showDeployed(deployOutput{d.ID, hex.EncodeToString(d.Checksum[:]), d.Name}), err)
		},
	}
	fl := cmd.Flags()
	fl.StringVarP(&name, "name", "n", "", "name of the function")
	fl.StringVarP(&token, "token", "t", "", "token instead of the stored login")
	fl.BoolVar(&public, "public", false, "let everybody with a token run it")
	a.pcrFlag(cmd, &pcrs)
	return cmd
}

func (a *app) showDeployed(out deployOutput) error {
	if a.json() {
		return a.printJSON(out)
	}
	text := fmt.Sprintf("Function ID       ➜  %s\nFunction Checksum ➜  %s\n", out.ID, out.Checksum)
	if out.Name != "" {
		text += fmt.Sprintf("Function Name     ➜  %s\n", out.Name)
	}
	return a.print([]byte(text))
}
