package trust

import (
	"errors"
	"fmt"
	"io/fs"
	"testing"
)

// TestReadOnlyFile: a pinned configuration may be read-only; any other failure counts.
func TestReadOnlyFile(t *testing.T) {
	var notices []Notice
	k := &Keeper{Notify: func(n Notice) { notices = append(notices, n) }}
	denied := fmt.Errorf("%w: %w", ErrFile, &fs.PathError{Op: "open", Err: fs.ErrPermission})
	if err := k.unwritable("o", denied); err != nil || len(notices) != 1 || notices[0].Kind != NotRemembered {
		t.Errorf("denied: %v, %v", err, notices)
	}
	full := errors.New("disk full")
	if err := k.unwritable("o", full); !errors.Is(err, full) || len(notices) != 1 {
		t.Errorf("disk full: %v, %v", err, notices)
	}
	if err := k.unwritable("o", nil); err != nil {
		t.Error(err)
	}
}
