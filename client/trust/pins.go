package trust

import (
	"bytes"
	"context"
	"encoding/hex"
	"fmt"
	"strconv"
	"strings"

	"github.com/cape-functions/cape/core/attest/policy"
	"github.com/cape-functions/cape/core/wire"
)

// pinDifferences compares what a document commits to with an entry. What the entry does
// not hold yet, or this kind of document does not carry, is no difference.
func pinDifferences(e *wire.TrustOrigin, c Claims) []Difference {
	var out []Difference
	if now := hex.EncodeToString(c.KeyPolicy); c.KeyPolicy != nil && e.KeyPolicy != "" && e.KeyPolicy != now {
		out = append(out, Difference{What: "key policy", Old: []string{e.KeyPolicy}, New: now})
	}
	if c.KMS != "" && e.KMS != "" && e.KMS != c.KMS {
		out = append(out, Difference{What: "KMS key", Old: []string{e.KMS}, New: c.KMS})
	}
	if c.Trust != nil && e.Trust != nil && !bytes.Equal(c.Trust, e.Trust) {
		out = append(out, Difference{What: "trust", Old: []string{EncodedText(e.Trust)}, New: EncodedText(c.Trust)})
	}
	return out
}

// addPins remembers what an entry made by an earlier kind of document does not hold yet. A
// key policy is remembered only if it came along, so that it was seen what it admits.
func (k *Keeper) addPins(ctx context.Context, origin string, entry *wire.TrustOrigin, c Claims) error {
	if !lacksPins(entry, c) {
		return nil
	}
	var added []Notice
	err := k.Store.Update(ctx, func(f *wire.TrustFile) error {
		e := f.Origins[origin]
		if e == nil {
			return nil
		}
		if d := pinDifferences(e, c); len(d) > 0 {
			return &Change{Origin: origin, Differences: d}
		}
		added = nil
		if e.KeyPolicy == "" && c.KeyPolicy != nil && c.shown() {
			e.KeyPolicy = hex.EncodeToString(c.KeyPolicy)
			added = append(added, Notice{Kind: KeyPolicyAdded, Origin: origin, New: e.KeyPolicy})
		}
		if e.KMS == "" && c.KMS != "" {
			e.KMS = c.KMS
			added = append(added, Notice{Kind: PinAdded, Origin: origin, Function: "KMS key", New: c.KMS})
		}
		if e.Trust == nil && c.Trust != nil {
			e.Trust = c.Trust
			added = append(added, Notice{Kind: PinAdded, Origin: origin, Function: "trust", New: EncodedText(c.Trust)})
		}
		return nil
	})
	if err == nil {
		for _, n := range added {
			k.notify(n)
		}
	}
	return k.unwritable(origin, err)
}

func lacksPins(e *wire.TrustOrigin, c Claims) bool {
	return e.KeyPolicy == "" && c.KeyPolicy != nil && c.shown() || e.KMS == "" && c.KMS != "" || e.Trust == nil && c.Trust != nil
}

// readTrust decodes what PCR16 measures.
func readTrust(encoded []byte) (*wire.Trust, error) {
	var t wire.Trust
	if err := wire.Unmarshal(encoded, wire.MaxConfig, &t); err != nil {
		return nil, err
	}
	return &t, nil
}

// EncodedText is TrustText of the form that trust files keep.
func EncodedText(encoded []byte) string {
	t, err := readTrust(encoded)
	if err != nil {
		return hex.EncodeToString(encoded)
	}
	return TrustText(t)
}

// What is shown of a trust: whoever runs an enclave chose it, and what is shown beside it must
// stay in sight.
const (
	maxIssuersShown = 8
	maxNameShown    = 640 // bytes
)

// TrustText says in one line whom a runtime believes: its issuers, with where their keys
// come from or who signs them, and its role. Where not all is shown, the measurement tells it from others.
func TrustText(t *wire.Trust) string {
	cut := false
	quoted := func(s string) string {
		if len(s) > maxNameShown {
			s, cut = s[:maxNameShown], true
		}
		// Addresses and ARNs have no spaces: nothing in quotes looks like a line of ours.
		return strings.ReplaceAll(strconv.QuoteToASCII(s), " ", `\x20`)
	}
	var parts []string
	for n, i := range t.Issuers {
		if n == maxIssuersShown {
			cut, parts = true, append(parts, fmt.Sprintf("%d MORE ISSUERS", len(t.Issuers)-n))
			break
		}
		keys := "keys signed by " + hex.EncodeToString(i.Signer)
		if i.JWKS != nil {
			keys = "keys from " + quoted(*i.JWKS)
		}
		parts = append(parts, "issuer "+quoted(i.Iss)+", "+keys)
	}
	parts = append(parts, "role "+quoted(t.Role))
	if m, err := wire.TrustMeasurement(*t); cut && err == nil {
		parts = append(parts, fmt.Sprintf("NOT ALL IS SHOWN, SHA-384 %x", m))
	}
	return strings.Join(parts, "; ")
}

// pinChecks are the lines of a report about what a document commits to.
func pinChecks(state policy.State, c Claims) []policy.Check {
	checks := []policy.Check{keyPolicyCheck(state, c)}
	if c.KMS != "" {
		checks = append(checks, policy.Check{Name: "kms", State: state, Detail: c.KMS})
	}
	if c.Trust != nil {
		checks = append(checks, policy.Check{Name: "trust", State: state, Detail: EncodedText(c.Trust)})
	}
	return checks
}
