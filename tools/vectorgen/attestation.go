package main

import (
	"fmt"
	"strconv"

	"github.com/cape-functions/cape/core/attest/nitro"
	"github.com/cape-functions/cape/core/attest/policy"
	"github.com/cape-functions/cape/core/attest/testkit"
	"github.com/cape-functions/cape/tools/vectorgen/vectors"
)

// attestations are the cases of the attestation library's own tests. What must
// come out of an accepted one is read from the document as it stands.
func attestations(s *set, _ *keyring) {
	for _, c := range testkit.Cases() {
		in := vectors.AttestationInput{Document: append([]byte{}, c.Document...), Policy: policyOf(c.Policy)}
		if !c.At.IsZero() {
			in.At = &c.At
		}
		about := fmt.Sprintf("Refused as %q.", c.Want)
		if c.Want != "accept" {
			s.fail(c.Name, about, in, c.Want)
			continue
		}
		signed, err := nitro.Parse(c.Document)
		if err != nil {
			s.check(fmt.Errorf("%s: %w", c.Name, err))
			continue
		}
		d := signed.Document
		s.ok(c.Name, "Accepted.", in, vectors.AttestationOutput{
			ModuleID: d.ModuleID, Timestamp: d.Timestamp.UnixMilli(),
			PublicKey: d.PublicKey, UserData: d.UserData, Nonce: d.Nonce,
		})
	}
}

func policyOf(p policy.Policy) vectors.AttestationPolicy {
	out := vectors.AttestationPolicy{
		Roots: p.Roots, PCRsNotChecked: p.PCRsNotChecked, Nonce: p.Nonce, NonceNotChecked: p.NonceNotChecked,
		AllowDebug: p.AllowDebug, MaxAge: p.MaxAge.Milliseconds(), TimeFromDocument: p.TimeFromDocument,
		RequirePublicKey: p.RequirePublicKey, RequireUserData: p.RequireUserData,
	}
	if p.PCRs != nil {
		out.PCRs = make(map[string]vectors.PCR)
	}
	for index, values := range p.PCRs {
		list := []vectors.Hex{}
		for _, v := range values {
			list = append(list, v[:])
		}
		out.PCRs[strconv.Itoa(index)] = vectors.PCR{AnyOf: list}
	}
	return out
}
