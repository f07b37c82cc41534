package cli

import (
	"encoding/hex"
	"errors"
	"fmt"
	"unicode/utf8"

	"github.com/spf13/cobra"

	"github.com/cape-functions/cape/client"
	"github.com/cape-functions/cape/core/attest"
	"github.com/cape-functions/cape/core/attest/policy"
)

func (a *app) runCommand() *cobra.Command {
	var token, file, checksum, keyPolicy string
	var pcrs []string
	cmd := &cobra.Command{
		Use:   "run {FUNCTION_ID | USER/NAME} [INPUT]",
		Short: "Run a function on an input",
		Long: `Run a function on an input, and print its result and a newline.

The enclave's document, the function's checksum and the signed checksums of input and
result are verified; -v shows how.`,
		Example: `  cape run dev/isprime 13
  cape run AbCdEfGhJkLmNpQrStUvWx -f picture.jpg -o json
  date | cape run dev/upper -f -`,
		Args: args(1, 2, "the function's id or name"),
		RunE: func(cmd *cobra.Command, given []string) error {
			f := client.Function{Name: given[0]}
			var err error
			if f.Checksum, err = parseSum("function-checksum", checksum); err != nil {
				return err
			}
			if f.KeyPolicy, err = parseSum("key-policy-checksum", keyPolicy); err != nil {
				return err
			}
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
			r, err := c.Run(cmd.Context(), f, input)
			if err != nil {
				return err
			}
			return a.showResult(r, "as attested", "\n")
		},
		ValidArgsFunction: a.functionNames(false),
	}
	fl := cmd.Flags()
	fl.StringVarP(&token, "token", "t", "", "token instead of the stored login")
	fl.StringVarP(&file, "file", "f", "", "read the input from a `file`; - is stdin")
	fl.StringVar(&checksum, "function-checksum", "", "SHA-256 (`hex`) that the function must have")
	fl.StringVar(&keyPolicy, "key-policy-checksum", "", "SHA-256 (`hex`) that the KMS key policy must have")
	a.pcrFlag(cmd, &pcrs)
	return cmd
}

// pcrFlag adds --pcr as the original had it: repeated, or separated by commas.
func (a *app) pcrFlag(cmd *cobra.Command, pcrs *[]string) {
	cmd.Flags().StringSliceVarP(pcrs, "pcr", "p", nil, "measurement that the enclave must have, as `index:hex`; several of one index mean any of them")
}

// errSum marks checksums in flags that are none.
var errSum = errors.New("not a SHA-256")

func parseSum(flag, text string) ([]byte, error) {
	if text == "" {
		return nil, nil
	}
	sum, err := hex.DecodeString(text)
	if err != nil || len(sum) != 32 {
		return nil, fmt.Errorf("%w: --%s takes 64 hexadecimal digits", errSum, flag)
	}
	return sum, nil
}

type checksums struct {
	Input    []byte `json:"input"`
	Function []byte `json:"function"`
	Output   []byte `json:"output"`
}

// runOutput has the original's fields; output_base64 is there for every result.
type runOutput struct {
	Output         *string   `json:"output,omitempty"`
	OutputBase64   []byte    `json:"output_base64"`
	Checksums      checksums `json:"checksums"`
	SignedResults  []byte    `json:"signed_results"`
	AttestationDoc document  `json:"attestation_doc"`
	RawDoc         []byte    `json:"raw_attestation_doc"`
}

// document is an attestation document with the names and forms of the original.
type document struct {
	ModuleID    string
	Timestamp   int64 // milliseconds
	Digest      string
	PCRs        map[int][]byte
	Certificate []byte
	Cabundle    [][]byte
	PublicKey   []byte
	UserData    []byte
	Nonce       []byte
}

func documentOf(ev *attest.Evidence) document {
	d := ev.Document
	out := document{ModuleID: d.ModuleID, Timestamp: d.Timestamp.UnixMilli(), Digest: d.Digest, PCRs: map[int][]byte{},
		Certificate: d.Certificate, Cabundle: d.CABundle, PublicKey: d.PublicKey, UserData: d.UserData, Nonce: d.Nonce}
	for i, pcr := range d.PCRs {
		out.PCRs[i] = pcr[:]
	}
	return out
}

// showResult prints a result; end comes after plain output. whence says what the
// function's checksum was compared with.
func (a *app) showResult(r *client.Result, whence, end string) error {
	a.showResultChecks(r, whence)
	if !a.json() {
		return a.print(r.Output, []byte(end))
	}
	out := runOutput{
		OutputBase64:  append([]byte{}, r.Output...),
		Checksums:     checksums{r.Checksums.Input[:], r.Checksums.Function[:], r.Checksums.Output[:]},
		SignedResults: r.Signature, AttestationDoc: documentOf(r.Evidence), RawDoc: r.Evidence.Raw,
	}
	if utf8.Valid(r.Output) {
		text := string(r.Output)
		out.Output = &text
	}
	return a.printJSON(out)
}

// showChecks tells with -v how a document was verified.
func (a *app) showChecks(what string, ev *attest.Evidence) {
	if !a.flags.verbose {
		return
	}
	a.note("Verified %s:", what)
	a.note("%s", checkLines(ev.Checks))
}

func checkLines(checks []policy.Check) string {
	text := ""
	for i, c := range checks {
		if i > 0 {
			text += "\n"
		}
		text += checkLine(c.State.String(), c.Name, c.Detail)
	}
	return text
}

func checkLine(state, name, detail string) string {
	return fmt.Sprintf("  %-12s %-11s %s", state, name, detail)
}

func (a *app) showResultChecks(r *client.Result, whence string) {
	if !a.flags.verbose {
		return
	}
	a.showChecks("the enclave", r.Evidence)
	a.note("Verified the result:")
	a.note("%s", checkLine("held", "signature", "checksums signed by the attested key"))
	a.note("%s", checkLine("held", "function", fmt.Sprintf("%x, %s", r.Checksums.Function, whence)))
	if r.InputCompared {
		a.note("%s", checkLine("held", "input", fmt.Sprintf("%x, as sent", r.Checksums.Input)))
	} else {
		a.note("%s", checkLine("not checked", "input", "it was sent encrypted; the enclave signed the sum of what it decrypted"))
	}
	a.note("%s", checkLine("held", "output", fmt.Sprintf("%x, as received", r.Checksums.Output)))
}
