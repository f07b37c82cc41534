package cli

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/cape-functions/cape/client/trust"
	"github.com/cape-functions/cape/core/attest/chain"
	"github.com/cape-functions/cape/core/attest/nitro"
	"github.com/cape-functions/cape/core/wire"
)

// maxReleaseFile bounds a release file, in bytes.
const maxReleaseFile = 64 << 10

var (
	// errRelease marks release files and published releases that cannot be used.
	errRelease = errors.New("release cannot be used")
	// errUnconfirmed: a change of what is trusted needs a yes.
	errUnconfirmed = errors.New("nothing was changed")
)

// trustIndex is the register that the server's configuration decides.
const trustIndex = "16"

// pinned are the registers that an image decides.
var pinned = []string{"0", "1", "2", "8"}

func (a *app) trustPin() *cobra.Command {
	var image, release, pcr16 string
	var published, add, yes bool
	cmd := &cobra.Command{
		Use:   "pin [SERVER]",
		Short: "Trust the measurements of an image, and show what changes",
		Long: `Write PCR0, PCR1, PCR2 and PCR8 of an image into the trust file as what the server may run, and
show what changes: of an image file (--image), of a release file of the image's publisher
(--release), or of what the server publishes (--published: nothing vouches for that but you).
Without SERVER the configured one is meant.

The values replace what was trusted until now; with --add they are trusted beside it, which is
what a server needs while it changes from one image to the next. Everything else of the
server's entry stays as it is. A server that is not in the trust file yet is added under AWS's
root; that needs --pcr16 as well, since no image says whom a server's runtime trusts.`,
		Example: `  cape trust pin https://cape.example.com --image cape-runtime.eif
  cape trust pin --release cape-runtime.release.json --add`,
		Args: args(0, 1, ""),
		RunE: func(cmd *cobra.Command, given []string) error {
			if given := cmd.Flags().Changed; !oneOf(given("image"), given("release"), published) {
				return fmt.Errorf("%w: say where the measurements come from: --image, --release or --published, and one of them alone", errUsage)
			}
			store, origin, err := a.trustStore(given)
			if err != nil {
				return err
			}
			if origin == "" {
				return fmt.Errorf("%w: the server is missing", errUsage)
			}
			values, err := a.measurements(cmd.Context(), image, release, published, given)
			if err != nil {
				return err
			}
			if pcr16 != "" {
				v, err := nitro.ParsePCR(strings.ToLower(pcr16))
				if err != nil {
					return fmt.Errorf("%w: --pcr16: %w", errUsage, err)
				}
				values[trustIndex] = []string{v.String()}
			}
			return a.pin(cmd.Context(), store, origin, pinChange{values, add, yes})
		},
	}
	cmd.Flags().StringVar(&image, "image", "", "measure this enclave image `file`")
	cmd.Flags().StringVar(&release, "release", "", "read this release `file`")
	cmd.Flags().StringVar(&pcr16, "pcr16", "", "PCR16 in `hex`: whom the server's runtime trusts, as its operator states it")
	cmd.Flags().BoolVar(&published, "published", false, "take what the server publishes (GET /v1/releases)")
	cmd.Flags().BoolVar(&add, "add", false, "trust the new values beside the old ones")
	cmd.Flags().BoolVar(&yes, "yes", false, "change what is trusted without asking")
	return cmd
}

func oneOf(given ...bool) bool {
	first := slices.Index(given, true)
	return first >= 0 && !slices.Contains(given[first+1:], true)
}

// measurements returns the values of each register, by its index.
func (a *app) measurements(ctx context.Context, image, release string, published bool, given []string) (map[string][]string, error) {
	switch {
	case image != "":
		img, err := a.readImage(ctx, image)
		if err != nil {
			return nil, err
		}
		if img.Development() {
			return nil, fmt.Errorf("%w: %s is a development image, which never runs under AWS's root", errRelease, image)
		}
		return registersOf([]wire.Release{{Measurements: img.Measurements.Map()}})
	case release != "":
		text, err := readLimited(release, maxReleaseFile)
		if err != nil {
			return nil, err
		}
		var r wire.Release
		if err := json.Unmarshal(text, &r); err != nil {
			return nil, fmt.Errorf("%w: %s: %w", errRelease, release, err)
		}
		return registersOf([]wire.Release{r})
	}
	if len(given) > 0 {
		a.flags.url = given[0]
	}
	c, err := a.connect(nil, wishes{})
	if err != nil {
		return nil, err
	}
	defer c.Close()
	all, err := c.Releases(ctx)
	if err != nil {
		return nil, err
	}
	if !published || len(all) == 0 {
		return nil, fmt.Errorf("%w: the server names none", errRelease)
	}
	return registersOf(all)
}

// registersOf checks releases and joins their values.
func registersOf(all []wire.Release) (map[string][]string, error) {
	out := map[string][]string{}
	for _, r := range all {
		for _, i := range pinned {
			text := r.Measurements["PCR"+i]
			if text == "" && i == "8" {
				continue // unsigned
			}
			v, err := nitro.ParsePCR(strings.ToLower(text))
			if err != nil || v.IsZero() {
				return nil, fmt.Errorf("%w: its PCR%s is %q, not 96 hexadecimal digits that are not all zero", errRelease, i, clean(text))
			}
			if !slices.Contains(out[i], v.String()) {
				out[i] = append(out[i], v.String())
			}
		}
	}
	return out, nil
}

type pinChange struct {
	values   map[string][]string
	add, yes bool
}

// pinResult is the JSON of what changed.
type pinResult struct {
	Origin  string               `json:"origin"`
	New     bool                 `json:"new"` // there was no entry
	Changes map[string]pinValues `json:"changes"`
}

type pinValues struct {
	Old []string `json:"old"`
	New []string `json:"new"`
}

// pin changes an entry. What is shown and confirmed is what is written: the entry
// is looked at again under the file's lock.
func (a *app) pin(ctx context.Context, store *trust.Store, origin string, c pinChange) error {
	file, err := store.Load()
	if err != nil {
		return err
	}
	if file.Origins[origin] == nil && c.values[trustIndex] == nil {
		return fmt.Errorf("%w: %s is not known yet; make a first contact, which shows all its values, or give --pcr16", errUnconfirmed, origin)
	}
	shown := c.apply(origin, file, a.Now())
	if len(shown.Changes) > 0 {
		if err := a.confirmPin(shown, c.yes); err != nil {
			return err
		}
		err = store.Update(ctx, func(f *wire.TrustFile) error {
			if now := c.apply(origin, f, a.Now()); !now.same(shown) {
				return fmt.Errorf("%w: the trust file was changed meanwhile; try again", errUnconfirmed)
			}
			return nil
		})
		if err != nil {
			return err
		}
	}
	switch {
	case a.json():
		return a.printJSON(shown)
	case len(shown.Changes) == 0:
		a.note("%s: nothing changes, these values are trusted already.", origin)
	default:
		a.note("Trusted from now on.")
	}
	return nil
}

func (r pinResult) same(o pinResult) bool {
	return r.New == o.New && maps.EqualFunc(r.Changes, o.Changes, func(a, b pinValues) bool { return slices.Equal(a.Old, b.Old) && slices.Equal(a.New, b.New) })
}

// apply puts the values into f and tells what changed.
func (c pinChange) apply(origin string, f *wire.TrustFile, now time.Time) pinResult {
	r := pinResult{Origin: origin, Changes: map[string]pinValues{}}
	e := f.Origins[origin]
	if e == nil {
		r.New = true
		e = &wire.TrustOrigin{Root: chain.AWSRootSHA256, PCRs: map[string][]string{}, Added: now.UTC().Format(time.RFC3339)}
		f.Origins[origin] = e
	}
	for i, values := range c.values {
		next := values
		if c.add {
			next = slices.Clone(e.PCRs[i])
			for _, v := range values {
				if !slices.Contains(next, v) {
					next = append(next, v)
				}
			}
		}
		if sameSet(e.PCRs[i], next) {
			continue
		}
		r.Changes["PCR"+i] = pinValues{Old: append([]string{}, e.PCRs[i]...), New: next}
		e.PCRs[i] = next
	}
	return r
}

func sameSet(a, b []string) bool {
	return slices.Equal(slices.Sorted(slices.Values(a)), slices.Sorted(slices.Values(b)))
}

// confirmPin shows a change and has it confirmed.
func (a *app) confirmPin(r pinResult, yes bool) error {
	var b strings.Builder
	if r.New {
		fmt.Fprintf(&b, "%s is not known yet. It will be trusted under AWS's root with\n", r.Origin)
	} else {
		fmt.Fprintf(&b, "What %s may run changes:\n", r.Origin)
	}
	for _, name := range slices.SortedFunc(maps.Keys(r.Changes), byIndex) {
		v := r.Changes[name]
		fmt.Fprintf(&b, "  %s %s\n", name, pinMeaning(name))
		for _, old := range v.Old {
			if !slices.Contains(v.New, old) {
				fmt.Fprintf(&b, "    no longer: %s\n", old)
			}
		}
		for _, value := range v.New {
			if slices.Contains(v.Old, value) {
				fmt.Fprintf(&b, "    still:     %s\n", value)
			} else {
				fmt.Fprintf(&b, "    new:       %s\n", value)
			}
		}
	}
	fmt.Fprint(a.Stderr, b.String())
	if yes {
		return nil
	}
	if !a.canAsk() {
		return fmt.Errorf("%w: say --yes to change what is trusted where nobody can be asked", errUnconfirmed)
	}
	fmt.Fprint(a.Stderr, "Type yes to trust this: ")
	line, err := bufio.NewReader(a.Stdin).ReadString('\n')
	if err != nil && line == "" || strings.TrimSpace(line) != "yes" {
		return errUnconfirmed
	}
	return nil
}

func pinMeaning(name string) string {
	i, err := strconv.Atoi(strings.TrimPrefix(name, "PCR"))
	if err != nil {
		return ""
	}
	return pcrMeaning(i, nitro.PCR{1}) // any that is not zero
}
