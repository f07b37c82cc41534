package policy_test

import (
	"encoding/json"
	"errors"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/cape-functions/cape/core/attest/nitro"
	"github.com/cape-functions/cape/core/attest/policy"
	"github.com/cape-functions/cape/core/attest/testkit"
)

var at = time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)

// TestNothingIsImplied removes one thing at a time from a sufficient policy: each absence
// must be said by name.
func TestNothingIsImplied(t *testing.T) {
	full := func() policy.Policy {
		return policy.Policy{Roots: [][]byte{{1}}, PCRs: map[int][]nitro.PCR{0: {testkit.PCR(0)}}, Nonce: make([]byte, 32)}
	}
	for _, tt := range []struct {
		name   string
		change func(p *policy.Policy)
		empty  bool
	}{
		{"roots", func(p *policy.Policy) { p.Roots = nil }, true},
		{"PCRs", func(p *policy.Policy) { p.PCRs = nil }, true},
		{"PCRs, empty map", func(p *policy.Policy) { p.PCRs = map[int][]nitro.PCR{} }, true},
		{"values of PCR0", func(p *policy.Policy) { p.PCRs[0] = []nitro.PCR{} }, true},
		{"nonce", func(p *policy.Policy) { p.Nonce = nil }, true},
		{"everything", func(p *policy.Policy) { *p = policy.Policy{} }, true},
		{"nothing", func(*policy.Policy) {}, false},
		{"PCRs by name", func(p *policy.Policy) { p.PCRs, p.PCRsNotChecked = nil, true }, false},
		{"nonce by name", func(p *policy.Policy) { p.Nonce, p.NonceNotChecked = nil, true }, false},
	} {
		p := full()
		tt.change(&p)
		err := p.Validate()
		if errors.Is(err, policy.ErrEmptyPolicy) != tt.empty || errors.Is(err, policy.ErrPolicy) != tt.empty {
			t.Errorf("without %s: %v", tt.name, err)
		}
	}
}

func document() nitro.Document { return testkit.NewAuthority("policy", at).Document(at) }

// TestLeftOutShows: a check that was left out by name stands in the result as not checked.
func TestLeftOutShows(t *testing.T) {
	p := policy.Policy{Roots: [][]byte{{1}}, PCRsNotChecked: true, NonceNotChecked: true, TimeFromDocument: true}
	got := make(map[string]policy.State)
	for _, c := range p.Check(document(), time.Time{}) {
		got[c.Name] = c.State
	}
	want := map[string]policy.State{"time": policy.NotChecked, "debug": policy.Held, "pcrs": policy.NotChecked, "nonce": policy.NotChecked}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
}

// TestUnusablePolicyFails: a caller who forgot Validate gets a failure and no line that held.
func TestUnusablePolicyFails(t *testing.T) {
	d := document()
	d.Nonce = nil
	checks := policy.Policy{}.Check(d, at)
	if len(checks) != 1 || checks[0].State != policy.Failed || !errors.Is(checks[0].Err, policy.ErrPolicy) {
		t.Errorf("got %+v", checks)
	}
}

// TestEveryMeasurementShows: one line per index, in order, each with its own outcome.
func TestEveryMeasurementShows(t *testing.T) {
	p := policy.Policy{Roots: [][]byte{{1}}, Nonce: document().Nonce, PCRs: map[int][]nitro.PCR{
		8: {testkit.PCR(9)}, 0: {testkit.PCR(0)}, 16: {{}}, 2: {testkit.PCR(1), testkit.PCR(2)},
	}}
	type line struct {
		Name  string
		State policy.State
	}
	var got []line
	for _, c := range p.Check(document(), at) {
		got = append(got, line{c.Name, c.State})
	}
	want := []line{{"time", policy.Held}, {"debug", policy.Held}, {"pcr0", policy.Held}, {"pcr2", policy.Held},
		{"pcr8", policy.Failed}, {"pcr16", policy.Failed}, {"nonce", policy.Held}}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
}

func TestChainTime(t *testing.T) {
	d := document()
	for _, tt := range []struct {
		name    string
		at      time.Time
		archive bool
		want    time.Time
	}{
		{"later", at.Add(time.Minute), false, at.Add(time.Minute)},
		{"same", at, false, at},
		{"clock behind", at.Add(-policy.MaxSkew), false, at},
		{"clock too far behind", at.Add(-policy.MaxSkew - time.Millisecond), false, at.Add(-policy.MaxSkew - time.Millisecond)},
		{"archived", at.Add(9 * time.Hour), true, at},
	} {
		if got := (policy.Policy{TimeFromDocument: tt.archive}).ChainTime(d, tt.at); !got.Equal(tt.want) {
			t.Errorf("%s: %s, want %s", tt.name, got, tt.want)
		}
	}
}

func TestStateJSON(t *testing.T) {
	got, err := json.Marshal(policy.Check{Name: "nonce", State: policy.NotChecked, Detail: "none", Err: errors.New("kept out")})
	if want := `{"name":"nonce","state":"not checked","detail":"none"}`; err != nil || string(got) != want {
		t.Errorf("%s, %v", got, err)
	}
	for state, want := range map[policy.State]string{policy.Held: "held", policy.Failed: "failed", 0: "unknown"} {
		if state.String() != want {
			t.Errorf("%d: %s", state, state)
		}
	}
}
