package cli

import (
	"github.com/spf13/cobra"

	"github.com/cape-functions/cape/client"
)

func (a *app) testCommand() *cobra.Command {
	var token, file string
	var pcrs []string
	cmd := &cobra.Command{
		Use:   "test {FOLDER | ZIP} [INPUT]",
		Short: "Run a function in an enclave without deploying it",
		Long: `Upload a function to an attested enclave, run it once, and print the result as it is,
without a newline. Nothing is stored.`,
		Example: `  cape test ./hello 'some input'`,
		Args:    args(1, 2, "the folder or zip"),
		RunE: func(cmd *cobra.Command, given []string) error {
			input, err := a.input(file, given[1:])
			if err != nil {
				return err
			}
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
			bar := a.progress("Uploading")
			p.Progress = bar.update
			r, err := c.Test(cmd.Context(), p, input)
			bar.done()
			if err != nil {
				return err
			}
			return a.showResult(r, "as uploaded", "")
		},
	}
	fl := cmd.Flags()
	fl.StringVarP(&token, "token", "t", "", "token instead of the stored login")
	fl.StringVarP(&file, "file", "f", "", "read the input from a `file`; - is stdin")
	a.pcrFlag(cmd, &pcrs)
	return cmd
}
