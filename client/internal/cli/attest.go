package cli

import (
	"cmp"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/spf13/cobra"

	"github.com/cape-functions/cape/client/internal/docfile"
	"github.com/cape-functions/cape/client/trust"
	"github.com/cape-functions/cape/core/attest"
	"github.com/cape-functions/cape/core/attest/chain"
	"github.com/cape-functions/cape/core/attest/nitro"
	"github.com/cape-functions/cape/core/attest/policy"
)

func (a *app) attestCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "attest",
		Short: "Look at attestation documents in files",
		Long: `Look at an attestation document in a file: raw, as base64 or hexadecimal text, or in the
JSON of a server or of cape run -o json. - is stdin.`,
		Args: args(0, 0, ""),
		RunE: func(cmd *cobra.Command, _ []string) error { return cmd.Help() },
	}
	cmd.AddCommand(a.attestOne("show", "Show a document and what holds of it", false), a.attestOne("verify", "Tell what holds of a document and what does not", true))
	return cmd
}

// question is what the flags of attest ask.
type question struct {
	at, root, nonce string
	pcrs            []string
	debug           bool
}

func (a *app) attestOne(use, short string, verify bool) *cobra.Command {
	var q question
	long := `What holds, what fails and what was not checked is said line by line. What no flag gives
an expectation for is not checked.`
	at := "document"
	if verify {
		at = "now"
		long += ` The exit status is 1 if something fails.`
	}
	cmd := &cobra.Command{
		Use:   use + " FILE",
		Short: short,
		Long:  long,
		Example: `  cape run dev/isprime 13 -o json > run.json
  cape attest ` + use + ` run.json --at document --pcr 0:5f2c…`,
		Args: args(1, 1, "the file"),
		RunE: func(_ *cobra.Command, given []string) error {
			raw, err := a.documentFile(given[0])
			if err != nil {
				return err
			}
			if a.flags.rootCert != "" && q.root != "" {
				return fmt.Errorf("%w: --root and --root-cert mean the same: give one", errUsage)
			}
			q.root = cmp.Or(q.root, a.flags.rootCert)
			p, when, err := q.policy(a.Now())
			if err != nil {
				return err
			}
			r := attest.Inspect(chain.New(), raw, p, when)
			if err := a.showReport(r, !verify); err != nil {
				return err
			}
			if r.Err != nil && (verify || r.Document == nil) {
				return silent{r.Err}
			}
			return nil
		},
	}
	fl := cmd.Flags()
	fl.StringVar(&q.at, "at", at, "time of the check: RFC 3339, now, or document for the document's own")
	fl.StringVar(&q.root, "root", "", "`file` of the root to accept in place of AWS's, PEM or DER")
	fl.StringVar(&q.nonce, "nonce", "", "nonce that the document must answer, `hex`")
	fl.BoolVar(&q.debug, "allow-debug", false, "accept an enclave in debug mode")
	a.pcrFlag(cmd, &q.pcrs)
	return cmd
}

func (a *app) documentFile(name string) ([]byte, error) {
	var data []byte
	var err error
	if name == "-" {
		data, err = readAll(a.Stdin, "stdin", docfile.MaxFile)
	} else {
		data, err = readLimited(name, docfile.MaxFile)
	}
	if err != nil {
		return nil, err
	}
	return docfile.Find(data)
}

func (q question) policy(now time.Time) (policy.Policy, time.Time, error) {
	p := policy.Policy{Roots: [][]byte{chain.AWSRoot()}, AllowDebug: q.debug, NonceNotChecked: q.nonce == "", PCRsNotChecked: len(q.pcrs) == 0}
	if q.root != "" {
		root, err := readRoot(q.root)
		if err != nil {
			return p, now, err
		}
		p.Roots = [][]byte{root}
	}
	var err error
	if q.nonce != "" {
		if p.Nonce, err = hex.DecodeString(q.nonce); err != nil {
			return p, now, fmt.Errorf("%w: --nonce is not hexadecimal", errUsage)
		}
	}
	if len(q.pcrs) > 0 {
		if p.PCRs, err = trust.ParsePCRs(q.pcrs); err != nil {
			return p, now, err
		}
	}
	switch q.at {
	case "now":
	case "document":
		p.TimeFromDocument = true
	default:
		if now, err = time.Parse(time.RFC3339, q.at); err != nil {
			return p, now, fmt.Errorf("%w: --at takes a time such as 2026-01-31T12:00:00Z, now, or document", errUsage)
		}
	}
	return p, now, nil
}

type reportOutput struct {
	Verdict         string         `json:"verdict"` // "holds" or "fails"
	Class           string         `json:"class"`   // "accept", or the class of the first failure
	Checks          []policy.Check `json:"checks"`
	Root            string         `json:"root"`
	DevelopmentRoot bool           `json:"development_root"`
	Debug           bool           `json:"debug"`
	Document        *shownDocument `json:"document"`
}

// shownDocument is a document for people: PCRs in hex, times as text.
type shownDocument struct {
	ModuleID  string            `json:"module_id"`
	Timestamp time.Time         `json:"timestamp"`
	PCRs      map[int]nitro.PCR `json:"pcrs"`
	PublicKey string            `json:"public_key,omitempty"` // hex
	UserData  string            `json:"user_data,omitempty"`  // text if it is JSON, else hex
	Nonce     string            `json:"nonce,omitempty"`      // hex
}

func (a *app) showReport(r *attest.Report, content bool) error {
	verdict := "holds"
	if r.Err != nil {
		verdict = "fails"
	}
	var doc *shownDocument
	if d := r.Document; d != nil {
		doc = &shownDocument{ModuleID: d.ModuleID, Timestamp: d.Timestamp, PCRs: d.PCRs, PublicKey: hex.EncodeToString(d.PublicKey),
			UserData: userDataText(d.UserData), Nonce: hex.EncodeToString(d.Nonce)}
	}
	if a.json() {
		return a.printJSON(reportOutput{verdict, attest.Class(r.Err), r.Checks, hex.EncodeToString(r.Root[:]), r.DevelopmentRoot, r.Debug, doc})
	}
	var b strings.Builder
	if content && doc != nil {
		b.WriteString(documentText(doc))
	}
	left := 0
	for _, c := range r.Checks {
		state := c.State.String()
		if c.State == policy.Failed {
			state = "FAILED"
		}
		if c.State == policy.NotChecked {
			left++
		}
		b.WriteString(checkLine(state, c.Name, c.Detail) + "\n")
	}
	switch {
	case r.Err != nil:
		b.WriteString("The document is not acceptable: " + line(r.Err.Error()) + "\n")
	case left > 0:
		fmt.Fprintf(&b, "What was checked holds; %d things were not checked.\n", left)
	default:
		b.WriteString("Everything holds.\n")
	}
	return a.print([]byte(b.String()))
}

func documentText(d *shownDocument) string {
	var b strings.Builder
	fmt.Fprintf(&b, "Module      %s\nTime        %s\n", line(d.ModuleID), d.Timestamp.Format(time.RFC3339Nano))
	for _, i := range slices.Sorted(maps.Keys(d.PCRs)) {
		if pcr := d.PCRs[i]; i <= 2 || !pcr.IsZero() {
			fmt.Fprintf(&b, "PCR%-8d %s\n", i, pcr)
		}
	}
	for _, field := range [][2]string{{"Public key", d.PublicKey}, {"User data", d.UserData}, {"Nonce", d.Nonce}} {
		if field[1] != "" {
			fmt.Fprintf(&b, "%-11s %s\n", field[0], line(field[1]))
		}
	}
	b.WriteString("\n")
	return b.String()
}

func userDataText(data []byte) string {
	if utf8.Valid(data) && json.Valid(data) {
		return string(data)
	}
	return hex.EncodeToString(data)
}
