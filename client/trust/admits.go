package trust

import (
	"slices"
	"strconv"

	"github.com/cape-functions/cape/core/attest/nitro"
)

// shown tells whether the document came with the key policy itself.
func (c Claims) shown() bool { return c.PCR8 != nil }

// foreign lists what the KMS key opens for beside the accepted images: an enclave of one of
// those reads whatever any enclave stores. A policy that lists images is held against the
// accepted images; one that does not, or a caller who accepts whatever somebody signed,
// leaves the signers to compare. Nothing is foreign where the policy was not shown.
func foreign(accepted map[int][]nitro.PCR, c Claims) []Difference {
	index, admitted := 8, c.PCR8
	if len(c.PCR0) > 0 && (len(accepted[0]) > 0 || len(accepted[8]) == 0) {
		index, admitted = 0, c.PCR0
	}
	var out []Difference
	for _, pcr := range admitted {
		if slices.Contains(accepted[index], pcr) {
			continue
		}
		d := Difference{What: opensFor + strconv.Itoa(index), New: pcr.String()}
		for _, v := range accepted[index] {
			d.Old = append(d.Old, v.String())
		}
		if d.Old == nil {
			d.Old = []string{"no value"}
		}
		out = append(out, d)
	}
	return out
}

// opensFor begins the What of a Difference of foreign.
const opensFor = "the key opens for PCR"

// Others are the images, beside the enclave's own, that the KMS key opens for, or, if its
// policy lists no images, the signers.
func (in Introduction) Others() (images, signers []nitro.PCR) {
	other := func(list []nitro.PCR, own nitro.PCR) (out []nitro.PCR) {
		for _, pcr := range list {
			if pcr != own {
				out = append(out, pcr)
			}
		}
		return out
	}
	if len(in.KeyPCR0) > 0 {
		return other(in.KeyPCR0, in.PCRs[0]), nil
	}
	return nil, other(in.KeyPCR8, in.PCRs[8])
}
