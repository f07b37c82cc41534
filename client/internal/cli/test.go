package cli

import (
	"context"

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
without a newline. What the handler prints is shown on stderr. Nothing is stored.`,
		Example: `  cape test ./hello 'some input'`,
		Args:    args(1, 2, "the folder or zip"),
		RunE:    func(cmd *cobra.Command, given []string) error { return a.test(cmd.Context(), token, file, pcrs, given) },
	}
	fl := cmd.Flags()
	fl.StringVarP(&token, "token", "t", "", "token instead of the stored login")
	fl.StringVarP(&file, "file", "f", "", "read the input from a `file`; - is stdin")
	a.pcrFlag(cmd, &pcrs)
	return cmd
}

func (a *app) test(ctx context.Context, token, file string, pcrs, given []string) error {
	input, err := a.input(file, given[1:])
	if err != nil {
		return err
	}
	defer input.Close()
	who, err := a.caller(token)
	if err != nil {
		return err
	}
	c, err := a.connect(&who, wishes{pcrs: pcrs, makeKey: true, log: a.handlerLog})
	if err != nil {
		return err
	}
	defer c.Close()
	p, err := client.Pack(ctx, given[0], "")
	if err != nil {
		return err
	}
	defer p.Close()
	bar := a.progress("Uploading")
	p.Progress = bar.update
	out := a.output()
	r, err := c.TestStream(ctx, p, input, out)
	bar.done()
	if err != nil {
		return err
	}
	return a.showResult(r, out, "as uploaded", "")
}
