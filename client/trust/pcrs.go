package trust

import (
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"

	"github.com/cape-functions/cape/core/attest/nitro"
)

// ErrPCRs: text that was to name expected measurements does not.
var ErrPCRs = errors.New("not an expected measurement")

// ParsePCRs reads values of the form "index:hex". Several values of one index mean any
// of them, several indexes all of them. Errors match ErrPCRs.
func ParsePCRs(values []string) (map[int][]nitro.PCR, error) {
	pcrs := make(map[int][]nitro.PCR)
	for _, value := range values {
		index, hex, ok := strings.Cut(strings.TrimSpace(value), ":")
		if !ok {
			return nil, fmt.Errorf("%w: %.120q has no colon: write index:hex, for example 0:5f2c…", ErrPCRs, value)
		}
		i, err := strconv.Atoi(index)
		if err != nil || i < 0 || i >= nitro.MaxPCRs {
			return nil, fmt.Errorf("%w: %.20q is not an index from 0 to %d", ErrPCRs, index, nitro.MaxPCRs-1)
		}
		pcr, err := nitro.ParsePCR(hex)
		if err != nil {
			return nil, fmt.Errorf("%w: PCR%d: %w", ErrPCRs, i, err)
		}
		if !slices.Contains(pcrs[i], pcr) {
			pcrs[i] = append(pcrs[i], pcr)
		}
	}
	return pcrs, nil
}
