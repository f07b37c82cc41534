package v2

import (
	"errors"
	"testing"

	"github.com/cape-functions/cape/client/internal/link"
	"github.com/cape-functions/cape/core/wire"
)

// TestNothingBeginsAfterGivingUp: half of an input was sent, and the session is about to
// end: what began now would be read as the rest of it.
func TestNothingBeginsAfterGivingUp(t *testing.T) {
	s := waiting(nil)
	s.turn = make(chan struct{}, 1)
	s.giveUp()
	if c, err := s.begin(t.Context(), wire.KindInput); !errors.Is(err, link.ErrClosed) || c != nil {
		t.Errorf("error %v, want ErrClosed", err)
	}
	if len(s.turn) != 0 || len(s.slots) != 0 {
		t.Error("the turn or a slot was kept")
	}
}
