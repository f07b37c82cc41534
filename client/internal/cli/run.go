package cli

import (
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"unicode/utf8"

	"github.com/spf13/cobra"

	"github.com/cape-functions/cape/client"
	"github.com/cape-functions/cape/client/internal/lockfile"
	"github.com/cape-functions/cape/core/attest"
	"github.com/cape-functions/cape/core/attest/policy"
)

// runFlags are those of run.
type runFlags struct {
	token, file, checksum, keyPolicy, account, receipt, share string

	pcrs []string
	logs bool
}

func (a *app) runCommand() *cobra.Command {
	var flags runFlags
	cmd := &cobra.Command{
		Use:   "run {FUNCTION_ID | USER/NAME} [INPUT]",
		Short: "Run a function on an input",
		Long: `Run a function on an input, and print its result and a newline. Inputs and results may have
1 GiB each.

The enclave's document, the function and its signature, and the receipt of the result are
verified; -v shows how. A large result is printed while it comes: it is whole only if the
exit status is 0.`,
		Example: `  cape run dev/isprime 13
  cape run AbCdEfGhJkLmNpQrStUvWx -f picture.jpg -o json
  date | cape run dev/upper -f -
  cape run dev/isprime 13 --receipt proof.json; cape verify proof.json`,
		Args: args(1, 2, "the function's id or name"),
		RunE: func(cmd *cobra.Command, given []string) error { return a.run(cmd.Context(), flags, given) },

		ValidArgsFunction: a.functionNames(false),
	}
	fl := cmd.Flags()
	fl.StringVarP(&flags.token, "token", "t", "", "token instead of the stored login")
	fl.StringVarP(&flags.file, "file", "f", "", "read the input from a `file`; - is stdin")
	fl.StringVar(&flags.checksum, "function-checksum", "", "SHA-256 (`hex`) that the function must have")
	fl.StringVar(&flags.keyPolicy, "key-policy-checksum", "", "SHA-256 (`hex`) that the KMS key policy must have")
	fl.StringVar(&flags.receipt, "receipt", "", "write what proves the result to a `file`, with the keys that open it to input and output")
	fl.StringVar(&flags.share, "share", "", "write the same to a `file`, without the keys: it may be shown to anybody")
	fl.BoolVar(&flags.logs, "logs", false, "show on stderr what the handler prints: to its owner alone")
	a.accountFlag(cmd, &flags.account)
	a.pcrFlag(cmd, &flags.pcrs)
	return cmd
}

// accountFlag adds --account.
func (a *app) accountFlag(cmd *cobra.Command, account *string) {
	cmd.Flags().StringVar(account, "account", "", "account (`hex`) to which the name must belong; none: an unsigned function")
}

func (a *app) run(ctx context.Context, flags runFlags, given []string) error {
	f := client.Function{Name: given[0]}
	var err error
	if f.Checksum, err = parseSum("function-checksum", flags.checksum); err != nil {
		return err
	}
	if f.KeyPolicy, err = parseSum("key-policy-checksum", flags.keyPolicy); err != nil {
		return err
	}
	if err := flags.checkFiles(); err != nil {
		return err
	}
	input, err := a.input(flags.file, given[1:])
	if err != nil {
		return err
	}
	defer input.Close()
	who, err := a.caller(flags.token)
	if err != nil {
		return err
	}
	w := wishes{pcrs: flags.pcrs, account: flags.account}
	if flags.logs {
		w.log = a.handlerLog
	}
	c, err := a.connect(&who, w)
	if err != nil {
		return err
	}
	defer c.Close()
	if !c.sealed && (flags.receipt != "" || flags.share != "" || flags.logs) {
		return fmt.Errorf("%w: v1 has neither receipts nor logs", errUsage)
	}
	out := a.output()
	r, err := c.Stream(ctx, f, input, out)
	if err != nil {
		return err
	}
	return errors.Join(a.showResult(r, out, "as attested", "\n"), a.writeReceipts(r, flags))
}

// checkFiles refuses, before anything runs, files that receipts could not be written to.
func (flags runFlags) checkFiles() error {
	if flags.receipt != "" && flags.share != "" && sameFile(flags.receipt, flags.share) {
		return fmt.Errorf("%w: --receipt and --share name the same file", errUsage)
	}
	for _, file := range []string{flags.receipt, flags.share} {
		if file == "" {
			continue
		}
		if _, err := os.Stat(filepath.Dir(file)); err != nil {
			return fmt.Errorf("the receipt's folder: %w", err)
		}
		if info, err := os.Stat(file); err == nil && info.IsDir() {
			return fmt.Errorf("%w: %s is a folder: name a file for the receipt", errUsage, file)
		}
	}
	return nil
}

func sameFile(one, other string) bool {
	a, errA := os.Stat(one)
	b, errB := os.Stat(other)
	return filepath.Clean(one) == filepath.Clean(other) || errA == nil && errB == nil && os.SameFile(a, b)
}

// writeReceipts writes what proves the result where the flags ask for it.
func (a *app) writeReceipts(r *client.Result, flags runFlags) error {
	if flags.receipt != "" {
		if err := writeReceipt(flags.receipt, r.Receipt); err != nil {
			return err
		}
	}
	if flags.share != "" {
		return writeReceipt(flags.share, r.Receipt.WithoutOpenings())
	}
	return nil
}

func writeReceipt(file string, r *client.Receipt) error {
	data, err := r.Encode()
	if err != nil {
		return err
	}
	return lockfile.Write(file, data) // 0600: with it, a guess at the input can be checked
}

// handlerLog shows what a handler prints.
func (a *app) handlerLog(_ string, data []byte) { fmt.Fprint(a.Stderr, clean(string(data))) }

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
	SignedResults  []byte    `json:"signed_results,omitempty"` // v1
	Receipt        []byte    `json:"receipt,omitempty"`        // v2
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

// heldBack is how much of a result is not printed before it was verified whole.
const heldBack = 256 << 10

// output is where a result goes: to stdout while it comes, unless it is small, or, for JSON,
// into memory.
func (a *app) output() *resultWriter {
	if a.json() {
		return &resultWriter{}
	}
	return &resultWriter{stdout: a.Stdout}
}

type resultWriter struct {
	stdout io.Writer
	memory []byte
}

func (w *resultWriter) Write(p []byte) (int, error) {
	if w.stdout == nil || len(w.memory)+len(p) <= heldBack {
		w.memory = append(w.memory, p...)
		return len(p), nil
	}
	if err := w.flush(); err != nil {
		return 0, err
	}
	return w.stdout.Write(p)
}

func (w *resultWriter) flush() error {
	_, err := w.stdout.Write(w.memory)
	w.memory = w.memory[:0]
	return err
}

// showResult ends the output of a result; end comes after plain output. whence says what
// the function's checksum was compared with.
func (a *app) showResult(r *client.Result, w *resultWriter, whence, end string) error {
	a.showResultChecks(r, whence)
	if !a.json() {
		return a.print(w.memory, []byte(end))
	}
	out := runOutput{
		OutputBase64:  append([]byte{}, w.memory...),
		Checksums:     checksums{r.Checksums.Input[:], r.Checksums.Function[:], r.Checksums.Output[:]},
		SignedResults: r.Signature, AttestationDoc: documentOf(r.Evidence), RawDoc: r.Evidence.Raw,
	}
	if r.Receipt != nil {
		out.Receipt = r.Receipt.Raw
	}
	if utf8.Valid(w.memory) {
		text := string(w.memory)
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
	return fmt.Sprintf("  %-12s %-11s %s", state, name, line(detail))
}

func (a *app) showResultChecks(r *client.Result, whence string) {
	if !a.flags.verbose {
		return
	}
	a.showChecks("the enclave", r.Evidence)
	a.note("Verified the result:")
	if r.Receipt != nil {
		a.note("%s", checkLine("held", "receipt", "signed by the attested key, of this session and call"))
	} else {
		a.note("%s", checkLine("held", "signature", "checksums signed by the attested key"))
	}
	a.note("%s", checkLine("held", "function", fmt.Sprintf("%x, %s", r.Checksums.Function, whence)))
	a.note("%s", checkLine("held", "input", fmt.Sprintf("%x, as sent", r.Checksums.Input)))
	a.note("%s", checkLine("held", "output", fmt.Sprintf("%x, as received", r.Checksums.Output)))
}
