package cli

import (
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/cape-functions/cape/client"
	"github.com/cape-functions/cape/client/trust"
	"github.com/cape-functions/cape/core/attest"
	"github.com/cape-functions/cape/core/attest/policy"
)

func (a *app) verifyCommand() *cobra.Command {
	var input, output string
	var pcrs []string
	cmd := &cobra.Command{
		Use:   "verify FILE",
		Short: "Verify what cape run --receipt wrote",
		Long: `Tell from a receipt alone, offline, what it proves: that an enclave of the server computed
one output from one input by one function. Which enclaves are believed is what the trust
file says of the receipt's server, or --pcr and, for a development platform, --root-cert.
- is stdin.

With --input and --output the receipt is held against files: what you sent, and what you
got (without the newline that cape run adds). That takes the keys in the receipt, which a
shared one lacks.`,
		Example: `  cape run dev/isprime -f number --receipt proof.json > result
  cape verify proof.json --input number`,
		Args: args(1, 1, "the receipt's file"),
		RunE: func(cmd *cobra.Command, given []string) error {
			return a.verify(cmd.Context(), given[0], input, output, pcrs)
		},
	}
	fl := cmd.Flags()
	fl.StringVar(&input, "input", "", "`file` of which the input must be")
	// It takes the place of the --output of all other commands, whose short form stays.
	fl.StringVar(&output, "output", "", "`file` of which the output must be")
	fl.StringVarP(&a.flags.output, "format", "o", "plain", "plain or json")
	a.pcrFlag(cmd, &pcrs)
	return cmd
}

// verifyOutput is the JSON of verify.
type verifyOutput struct {
	Verdict  string         `json:"verdict"` // "holds"
	Origin   string         `json:"origin"`
	Route    string         `json:"route"`
	Time     time.Time      `json:"time"`
	Function string         `json:"function_checksum"`
	ID       uint64         `json:"id"`
	Previous string         `json:"previous,omitempty"` // hash of the receipt before it in its session
	Checks   []policy.Check `json:"checks"`
	Warnings []string       `json:"warnings,omitempty"`
}

func (a *app) verify(ctx context.Context, file, input, output string, pcrs []string) error {
	r, err := a.receiptFile(file)
	if err != nil {
		return err
	}
	s, err := a.settings()
	if err != nil {
		return err
	}
	keeper, err := a.keeper(s, wishes{pcrs: pcrs, origin: r.Origin}, nil)
	if err != nil {
		return err
	}
	// A file is no first contact: what it says of itself is not to be remembered.
	keeper.FirstUse, keeper.Ask = false, nil
	o := client.ProofOptions{Trust: keeper, At: a.Now()}
	for _, given := range []struct {
		name string
		to   *io.Reader
	}{{input, &o.Input}, {output, &o.Output}} {
		if given.name == "" {
			continue
		}
		f, err := os.Open(given.name)
		if err != nil {
			return err
		}
		defer f.Close()
		*given.to = f
	}
	proof, err := r.Verify(ctx, o)
	if err != nil {
		return advised{err, hintReceipt(err)}
	}
	return a.showProof(r, proof)
}

func (a *app) receiptFile(file string) (*client.Receipt, error) {
	var data []byte
	var err error
	if file == "-" {
		data, err = readAll(a.Stdin, "stdin", client.MaxReceiptFile)
	} else {
		data, err = readLimited(file, client.MaxReceiptFile)
	}
	if errors.Is(err, client.ErrTooLarge) {
		return nil, fmt.Errorf("%w: %w", client.ErrReceipt, err)
	}
	if err != nil {
		return nil, err
	}
	return client.ParseReceipt(data)
}

// hintReceipt says what to do about a receipt that does not hold; there is no server that
// anything was sent to. It is empty for errors that are not about the receipt.
func hintReceipt(err error) string {
	var change *trust.Change
	var unknown *trust.Unknown
	var root *trust.UnknownRoot
	switch {
	case errors.As(err, &unknown), errors.As(err, &root):
		return "you have not met this server. Give the measurements that its publisher states with --pcr and, for a development platform, its root with --root-cert."
	case errors.As(err, &change):
		return "the receipt is not of the enclave that the trust file, or --pcr, says. If the server had another one at the time, give its measurements with --pcr."
	case errors.Is(err, client.ErrReceipt), errors.Is(err, client.ErrAttestation):
		return "it proves nothing: do not rely on it."
	}
	return ""
}

// dependence says which earlier inputs a result depends on.
func dependence(p *client.Proof) string {
	if p.Content.Prev == nil {
		return "no other: it is the first of its session"
	}
	return fmt.Sprintf("all before it in its session, since one process computed them: its number is %d, and the receipt before it has the hash %x",
		p.Content.ID, p.Content.Prev)
}

func (a *app) showProof(r *client.Receipt, p *client.Proof) error {
	out := verifyOutput{Verdict: "holds", Origin: r.Origin, Route: p.Content.Route, Time: p.Time, Function: hex.EncodeToString(p.Content.Fn),
		ID: p.Content.ID, Previous: hex.EncodeToString(p.Content.Prev), Checks: p.Checks}
	if p.Evidence.DevelopmentRoot {
		out.Warnings = append(out.Warnings, "the enclave ran under a development root: whoever has that could have made this receipt")
	}
	if a.json() {
		return a.printJSON(out)
	}
	var b strings.Builder
	fmt.Fprintf(&b, "Server      %s\nRoute       %s\nTime        %s\nFunction    %s\nDepends on  %s\n\n", line(r.Origin), line(out.Route),
		out.Time.Format(time.RFC3339Nano), out.Function, dependence(p))
	b.WriteString(checkText(p.Checks))
	b.WriteString("The receipt holds: an enclave that you trust computed one output from one input by this function.\n")
	return a.print([]byte(b.String()))
}

func checkText(checks []attest.Check) string {
	var b strings.Builder
	for _, c := range checks {
		b.WriteString(checkLine(c.State.String(), c.Name, c.Detail) + "\n")
	}
	return b.String()
}
