package attest_test

import (
	"bytes"
	"encoding/hex"
	"errors"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/cape-functions/cape/core/attest"
	"github.com/cape-functions/cape/core/attest/chain"
	"github.com/cape-functions/cape/core/attest/nitro"
	"github.com/cape-functions/cape/core/attest/policy"
	"github.com/cape-functions/cape/core/attest/testkit"
)

var classes = []error{
	attest.ErrPolicy, attest.ErrMalformed, attest.ErrRoot, attest.ErrChain, attest.ErrTime,
	attest.ErrSignature, attest.ErrDebug, attest.ErrPCR, attest.ErrNonce, attest.ErrField,
}

// TestCases runs every case twice with one verifier that remembers and once with one that
// does not: what was seen before must not change a verdict.
func TestCases(t *testing.T) {
	cases := testkit.Cases()
	if len(cases) < 200 {
		t.Fatalf("%d cases, expected over 200", len(cases))
	}
	names := make(map[string]bool)
	seen := chain.New()
	for round, v := range []*chain.Verifier{seen, seen, nil} {
		for _, c := range cases {
			if round == 0 && names[c.Name] {
				t.Errorf("%s: name is not unique", c.Name)
			}
			names[c.Name] = true
			e, err := attest.Verify(v, c.Document, c.Policy, c.At)
			if got := attest.Class(err); got != c.Want {
				t.Errorf("%s: round %d: %s, want %s: %v", c.Name, round, got, c.Want, err)
				continue
			}
			if (e == nil) != (err != nil) {
				t.Errorf("%s: evidence %v with error %v", c.Name, e != nil, err)
			}
			matches := 0
			for _, class := range classes {
				if errors.Is(err, class) {
					matches++
				}
			}
			if err != nil && matches != 1 {
				t.Errorf("%s: error matches %d classes: %v", c.Name, matches, err)
			}
		}
	}
}

// TestInspectAgrees: the report's verdict is Verify's, and exactly the failed lines say so.
func TestInspectAgrees(t *testing.T) {
	for _, c := range testkit.Cases() {
		r := attest.Inspect(nil, c.Document, c.Policy, c.At)
		if got := attest.Class(r.Err); got != c.Want {
			t.Errorf("%s: %s, want %s", c.Name, got, c.Want)
		}
		failed := 0
		for _, check := range r.Checks {
			if check.Name == "" || check.Detail == "" || check.State == 0 {
				t.Errorf("%s: incomplete line %+v", c.Name, check)
			}
			if (check.State == policy.Failed) != (check.Err != nil) {
				t.Errorf("%s: %s: state %v with error %v", c.Name, check.Name, check.State, check.Err)
			}
			if check.State == policy.Failed {
				failed++
			}
		}
		if (failed > 0) != (c.Want != "accept") {
			t.Errorf("%s: %d failed lines", c.Name, failed)
		}
	}
}

// TestInspectNotAuthentic: what agrees in a forged document is never reported as held.
func TestInspectNotAuthentic(t *testing.T) {
	for _, c := range testkit.Cases() {
		if c.Want != "root" && c.Want != "chain" && c.Want != "signature" {
			continue
		}
		for _, check := range attest.Inspect(nil, c.Document, c.Policy, c.At).Checks {
			switch check.Name {
			case "structure", "root", "chain", "validity":
			default:
				if check.State == policy.Held {
					t.Errorf("%s: %s held in a document that is not authentic", c.Name, check.Name)
				}
			}
		}
	}
}

func fixture(t testing.TB, name string) []byte {
	t.Helper()
	raw, err := os.ReadFile(filepath.Join("testdata", name))
	if err != nil {
		t.Fatal(err)
	}
	return raw
}

// archive is the policy for reading a real document from a file.
func archive() policy.Policy {
	return policy.Policy{
		Roots:           [][]byte{chain.AWSRoot()},
		PCRsNotChecked:  true,
		NonceNotChecked: true,
	}
}

func TestRealDocuments(t *testing.T) {
	for _, tt := range []struct {
		file      string
		timestamp time.Time
		pcr0      string // beginning
		userData  int
		nonce     int
		want      error
	}{
		{"cape-run-2022-09-15.cbor", time.Date(2022, 9, 15, 17, 43, 28, 848e6, time.UTC), "ea4212ee", 250, 12, nil},
		{"cape-user-key-2023-02-10.cbor", time.Date(2023, 2, 10, 12, 43, 31, 418e6, time.UTC), "bda74673", 746, 16, nil},
		{"no-user-data-2022-10-13.cbor", time.Date(2022, 10, 13, 8, 58, 2, 136e6, time.UTC), "", 0, 256, nil},
		{"user-data-2024-02-26.cbor", time.Date(2024, 2, 26, 7, 2, 1, 439e6, time.UTC), "", 42, 0, nil},
		{"debug-2022-07-14.cbor", time.Date(2022, 7, 14, 20, 46, 7, 740e6, time.UTC), "00000000", 0, 6, attest.ErrDebug},
		{"foreign-root-2024-12-13.cbor", time.Date(2024, 12, 13, 9, 5, 45, 8e6, time.UTC), "00000000", 3, 0, attest.ErrRoot},
	} {
		t.Run(tt.file, func(t *testing.T) {
			raw := fixture(t, tt.file)
			v := chain.New()
			for range 2 {
				e, err := attest.Verify(v, raw, archive(), tt.timestamp)
				if !errors.Is(err, tt.want) {
					t.Fatalf("got %v, want %v", err, tt.want)
				}
				if err != nil {
					continue
				}
				checkRealEvidence(t, e, raw)
				d := e.Document
				if !d.Timestamp.Equal(tt.timestamp) || len(d.UserData) != tt.userData || len(d.Nonce) != tt.nonce {
					t.Errorf("timestamp %v, user data %d, nonce %d", d.Timestamp, len(d.UserData), len(d.Nonce))
				}
				if pcr0 := d.PCRs[0].String(); pcr0[:len(tt.pcr0)] != tt.pcr0 {
					t.Errorf("PCR0 %s", pcr0)
				}
			}
			// A leaf lives three hours: none of these is good today.
			_, err := attest.Verify(v, raw, archive(), tt.timestamp.Add(24*time.Hour))
			if tt.want != attest.ErrRoot && !errors.Is(err, attest.ErrTime) {
				t.Errorf("a day later: %v", err)
			}
			p := archive()
			p.TimeFromDocument = true
			if _, err := attest.Verify(v, raw, p, tt.timestamp.Add(10*365*24*time.Hour)); !errors.Is(err, tt.want) {
				t.Errorf("archived: %v", err)
			}
		})
	}
}

func checkRealEvidence(t *testing.T, e *attest.Evidence, raw []byte) {
	t.Helper()
	if hex.EncodeToString(e.Root[:]) != chain.AWSRootSHA256 || e.DevelopmentRoot || e.Debug {
		t.Errorf("root %x, development %v, debug %v", e.Root, e.DevelopmentRoot, e.Debug)
	}
	if !bytes.Equal(e.Raw, raw) || len(e.Document.PCRs) != 16 {
		t.Errorf("raw bytes differ, or %d PCRs", len(e.Document.PCRs))
	}
}

// TestRealDocumentPolicy uses what a client of 2023 would have pinned.
func TestRealDocumentPolicy(t *testing.T) {
	raw := fixture(t, "cape-user-key-2023-02-10.cbor")
	s, err := nitro.Parse(raw)
	if err != nil {
		t.Fatal(err)
	}
	d := s.Document
	p := policy.Policy{
		Roots: [][]byte{chain.AWSRoot()},
		PCRs:  map[int][]nitro.PCR{0: {d.PCRs[0]}, 1: {d.PCRs[1]}, 2: {d.PCRs[2]}, 8: {d.PCRs[8]}},
		Nonce: d.Nonce, RequirePublicKey: true, RequireUserData: true,
	}
	e, err := attest.Verify(nil, raw, p, d.Timestamp)
	if err != nil {
		t.Fatal(err)
	}
	for _, check := range e.Checks {
		if check.State != policy.Held {
			t.Errorf("%s: %v: %s", check.Name, check.State, check.Detail)
		}
	}
	p.PCRs[2] = []nitro.PCR{d.PCRs[1]}
	if _, err := attest.Verify(nil, raw, p, d.Timestamp); !errors.Is(err, attest.ErrPCR) {
		t.Errorf("other PCR2: %v", err)
	}
}

func TestDebugAllowedByName(t *testing.T) {
	raw := fixture(t, "debug-2022-07-14.cbor")
	p := archive()
	p.AllowDebug, p.TimeFromDocument = true, true
	e, err := attest.Verify(nil, raw, p, time.Time{})
	if err != nil {
		t.Fatal(err)
	}
	if !e.Debug {
		t.Error("debug mode is not reported")
	}
	states := make(map[string]policy.State)
	for _, check := range e.Checks {
		states[check.Name] = check.State
	}
	want := map[string]policy.State{
		"structure": policy.Held, "root": policy.Held, "chain": policy.Held, "validity": policy.Held, "signature": policy.Held,
		"time": policy.NotChecked, "debug": policy.NotChecked, "pcrs": policy.NotChecked, "nonce": policy.NotChecked,
	}
	if diff := cmp.Diff(want, states); diff != "" {
		t.Error(diff)
	}
}

func TestDevelopmentRoot(t *testing.T) {
	at := time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)
	a := testkit.NewAuthority("development", at)
	raw := a.Sign(a.Document(at))
	p := archive()
	if _, err := attest.Verify(nil, raw, p, at); !errors.Is(err, attest.ErrRoot) {
		t.Errorf("under AWS's root: %v", err)
	}
	p.Roots = append(p.Roots, a.Root)
	e, err := attest.Verify(nil, raw, p, at)
	if err != nil {
		t.Fatal(err)
	}
	if !e.DevelopmentRoot {
		t.Error("development root is not reported")
	}
}

// TestEvidenceIsOwn: evidence does not change when the caller reuses its buffer.
func TestEvidenceIsOwn(t *testing.T) {
	at := time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)
	a := testkit.NewAuthority("development", at)
	raw := a.Sign(a.Document(at))
	p := archive()
	p.Roots = [][]byte{a.Root}
	e, err := attest.Verify(nil, raw, p, at)
	if err != nil {
		t.Fatal(err)
	}
	clear(raw)
	if diff := cmp.Diff(a.Document(at), e.Document); diff != "" {
		t.Error(diff)
	}
	if _, err := nitro.Parse(e.Raw); err != nil {
		t.Error(err)
	}
}

func TestClass(t *testing.T) {
	if got := attest.Class(os.ErrNotExist); got != "unknown" {
		t.Errorf("an error of something else: %s", got)
	}
}
