package policy

import (
	"crypto/subtle"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/cape-functions/cape/core/attest/nitro"
)

// State is the outcome of one check.
type State int

// The outcomes. The zero value is none of them.
const (
	Held State = iota + 1
	NotChecked
	Failed
)

// String returns "held", "not checked" or "failed".
func (s State) String() string {
	switch s {
	case Held:
		return "held"
	case NotChecked:
		return "not checked"
	case Failed:
		return "failed"
	}
	return "unknown"
}

// MarshalText implements [encoding.TextMarshaler] with the form of String.
func (s State) MarshalText() ([]byte, error) { return []byte(s.String()), nil }

// Check is one line of a report.
type Check struct {
	// Name is a short stable name: "policy", "structure", "root", "chain", "validity",
	// "signature", "time", "debug", "pcr0" and so on, "nonce", "public_key", "user_data".
	Name string `json:"name"`
	// State tells how it ended.
	State State `json:"state"`
	// Detail says what was compared, for people.
	Detail string `json:"detail"`
	// Err is the reason when State is Failed.
	Err error `json:"-"`
}

// Check compares a document, whose signature was verified, with the policy at the time at.
// It returns every line in a fixed order: time, debug, PCRs by index, nonce, fields. For a
// policy that cannot be used it returns one failed line.
func (p Policy) Check(d nitro.Document, at time.Time) []Check {
	if err := p.Validate(); err != nil {
		return []Check{{Name: "policy", State: Failed, Detail: err.Error(), Err: err}}
	}
	checks := append([]Check{p.checkTime(d, at), p.checkDebug(d)}, p.checkPCRs(d)...)
	checks = append(checks, p.checkNonce(d))
	if p.RequirePublicKey {
		checks = append(checks, checkField("public_key", d.PublicKey))
	}
	if p.RequireUserData {
		checks = append(checks, checkField("user_data", d.UserData))
	}
	return checks
}

func held(name, format string, args ...any) Check {
	return Check{Name: name, State: Held, Detail: fmt.Sprintf(format, args...)}
}

func notChecked(name, format string, args ...any) Check {
	return Check{Name: name, State: NotChecked, Detail: fmt.Sprintf(format, args...)}
}

func failed(class error, name, format string, args ...any) Check {
	detail := fmt.Sprintf(format, args...)
	return Check{Name: name, State: Failed, Detail: detail, Err: fmt.Errorf("%w: %s", class, detail)}
}

// ChainTime is the time at which the document's certificates must be valid. A document
// from within MaxSkew ahead is checked at its own time: the leaf of an enclave that has
// just started is as far ahead as the module's clock.
func (p Policy) ChainTime(d nitro.Document, at time.Time) time.Time {
	ahead := d.Timestamp.Sub(at)
	if p.TimeFromDocument || ahead > 0 && ahead <= MaxSkew {
		return d.Timestamp
	}
	return at
}

// checkTime compares the document's clock with the verifier's. An archived document may
// be of any age, but not from the future of a time that was given.
func (p Policy) checkTime(d nitro.Document, at time.Time) Check {
	made := d.Timestamp.UTC().Format(time.RFC3339)
	if at.IsZero() {
		if p.TimeFromDocument {
			return notChecked("time", "made at %s by its own account; no time was given to compare", made)
		}
		return failed(ErrTime, "time", "made at %s; no time was given to compare", made)
	}
	age := at.Sub(d.Timestamp)
	if age < -MaxSkew {
		return failed(ErrTime, "time", "made at %s, %s after the time of the check, at most %s is allowed", made, -age, MaxSkew)
	}
	if p.TimeFromDocument {
		return notChecked("time", "made at %s by its own account; its age is not limited", made)
	}
	limit := p.maxAge()
	if age > limit {
		return failed(ErrTime, "time", "made at %s, %s before the check, at most %s is allowed", made, age, limit)
	}
	return held("time", "made at %s, at most %s before the check", made, limit)
}

func (p Policy) maxAge() time.Duration {
	if p.MaxAge == 0 {
		return DefaultMaxAge
	}
	return p.MaxAge
}

// Debug tells whether the enclave runs in debug mode, in which the host reads its
// console and memory: PCR0, PCR1 or PCR2 is all zero.
func Debug(d nitro.Document) bool {
	for i := range imagePCRs {
		if value, ok := d.PCRs[i]; ok && value.IsZero() {
			return true
		}
	}
	return false
}

// checkDebug refuses debug mode whatever measurements are expected: two debug enclaves
// have equal PCRs and nothing else in common.
func (p Policy) checkDebug(d nitro.Document) Check {
	for i := range imagePCRs {
		if _, ok := d.PCRs[i]; !ok {
			return failed(ErrPCR, "debug", "the document has no PCR%d, so debug mode cannot be told", i)
		}
	}
	switch {
	case !Debug(d):
		return held("debug", "PCR0, PCR1 and PCR2 are not zero: not in debug mode")
	case p.AllowDebug:
		return notChecked("debug", "DEBUG MODE, allowed by the policy: the host can read this enclave's memory")
	}
	return failed(ErrDebug, "debug", "PCR0, PCR1 or PCR2 is zero: the host can read this enclave's memory")
}

func (p Policy) checkPCRs(d nitro.Document) []Check {
	if p.PCRsNotChecked {
		return []Check{notChecked("pcrs", "no expected measurements were given")}
	}
	var checks []Check
	for _, i := range slices.Sorted(maps.Keys(p.PCRs)) {
		name := fmt.Sprintf("pcr%d", i)
		value, ok := d.PCRs[i]
		switch {
		case !ok:
			checks = append(checks, failed(ErrPCR, name, "the document has no PCR%d", i))
		case !slices.Contains(p.PCRs[i], value):
			checks = append(checks, failed(ErrPCR, name, "PCR%d is %s, expected %s", i, value, oneOf(p.PCRs[i])))
		default:
			checks = append(checks, held(name, "%s", value))
		}
	}
	return checks
}

func oneOf(values []nitro.PCR) string {
	text := make([]string, len(values))
	for i, v := range values {
		text[i] = v.String()
	}
	return strings.Join(text, " or ")
}

func (p Policy) checkNonce(d nitro.Document) Check {
	switch {
	case p.NonceNotChecked:
		return notChecked("nonce", "no expected nonce was given")
	case len(d.Nonce) == 0:
		return failed(ErrNonce, "nonce", "the document has none")
	case subtle.ConstantTimeCompare(d.Nonce, p.Nonce) != 1:
		return failed(ErrNonce, "nonce", "not the one that was sent: an answer to somebody else")
	}
	return held("nonce", "the %d bytes that were sent", len(p.Nonce))
}

func checkField(name string, value []byte) Check {
	if len(value) == 0 {
		return failed(ErrField, name, "the document has none")
	}
	return held(name, "%d bytes", len(value))
}
