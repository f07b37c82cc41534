package localkms

import (
	"encoding/base64"
	"slices"
)

// page is how far a listing went.
type page struct {
	NextMarker string `json:",omitempty"`
	Truncated  bool
}

// paginate returns the part of a sorted list after marker, which is the last
// name of the page before, encoded so that nobody builds one.
func paginate(names []string, limit *int, ceiling int, marker string) ([]string, page, error) {
	n := min(100, ceiling)
	if limit != nil {
		n = *limit
	}
	if n < 1 || n > ceiling {
		return nil, page{}, fail(codeValidation, "Limit must be 1 to %d", ceiling)
	}
	if marker != "" {
		last, err := base64.RawURLEncoding.DecodeString(marker)
		if err != nil || len(last) > 512 {
			return nil, page{}, fail(codeInvalidMarker, "Marker is not one that this KMS gave")
		}
		i, found := slices.BinarySearch(names, string(last))
		if found {
			i++
		}
		names = names[i:]
	}
	if len(names) <= n {
		return names, page{}, nil
	}
	return names[:n], page{base64.RawURLEncoding.EncodeToString([]byte(names[n-1])), true}, nil
}
