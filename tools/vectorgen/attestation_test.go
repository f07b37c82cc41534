package main

import (
	"strconv"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/cape-functions/cape/core/attest"
	"github.com/cape-functions/cape/core/attest/nitro"
	"github.com/cape-functions/cape/core/attest/policy"
	"github.com/cape-functions/cape/tools/vectorgen/vectors"
)

// The scenarios hold all that the cases say: read back, they give the same
// verdicts.
func TestAttestationVectors(t *testing.T) {
	all, err := vectors.Read(dir, vectors.KindAttestation)
	if err != nil {
		t.Fatal(err)
	}
	for _, s := range all {
		t.Run(s.Name, func(t *testing.T) {
			var in vectors.AttestationInput
			if err := vectors.Decode(s.Input, &in); err != nil {
				t.Fatal(err)
			}
			var at time.Time
			if in.At != nil {
				at = *in.At
			}
			evidence, err := attest.Verify(nil, in.Document, readPolicy(t, in.Policy), at)
			if err != nil {
				if attest.Class(err) != s.Want {
					t.Errorf("%s, want %s", attest.Class(err), s.Want)
				}
				return
			}
			if s.Want != vectors.OK {
				t.Fatalf("accepted, want %s", s.Want)
			}
			var want vectors.AttestationOutput
			if err := vectors.Decode(s.Output, &want); err != nil {
				t.Fatal(err)
			}
			d := evidence.Document
			got := vectors.AttestationOutput{
				ModuleID: d.ModuleID, Timestamp: d.Timestamp.UnixMilli(),
				PublicKey: filled(d.PublicKey), UserData: filled(d.UserData), Nonce: filled(d.Nonce),
			}
			if diff := cmp.Diff(want, got); diff != "" {
				t.Error(diff)
			}
		})
	}
}

func filled(b []byte) vectors.Hex { return append(vectors.Hex{}, b...) }

func readPolicy(t *testing.T, in vectors.AttestationPolicy) policy.Policy {
	t.Helper()
	p := policy.Policy{
		Roots: in.Roots, PCRsNotChecked: in.PCRsNotChecked, Nonce: in.Nonce, NonceNotChecked: in.NonceNotChecked,
		AllowDebug: in.AllowDebug, MaxAge: time.Duration(in.MaxAge) * time.Millisecond, TimeFromDocument: in.TimeFromDocument,
		RequirePublicKey: in.RequirePublicKey, RequireUserData: in.RequireUserData,
	}
	if in.PCRs != nil {
		p.PCRs = make(map[int][]nitro.PCR)
	}
	for name, values := range in.PCRs {
		index, err := strconv.Atoi(name)
		if err != nil {
			t.Fatal(err)
		}
		list := []nitro.PCR{}
		for _, v := range values.AnyOf {
			list = append(list, nitro.PCR(v))
		}
		p.PCRs[index] = list
	}
	return p
}
