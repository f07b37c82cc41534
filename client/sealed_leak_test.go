package client_test

import (
	"context"
	"errors"
	"runtime"
	"testing"
	"time"

	"github.com/cape-functions/cape/client"
	"github.com/cape-functions/cape/client/testkit"
)

// TestSealedEnds: however sessions end, nothing of them goes on.
func TestSealedEnds(t *testing.T) {
	s := testkit.New(t)
	f := s.Add(testkit.Function{User: "ann", Name: "f", Zip: []byte("zip")})
	c := connectSealed(t, s)
	use := func(end func(*client.Session)) {
		session, err := c.Connect(t.Context(), client.Function{Name: f.ID})
		if err != nil {
			t.Fatal(err)
		}
		if _, err := session.Invoke(t.Context(), []byte("x")); err != nil {
			t.Fatal(err)
		}
		end(session)
	}
	use((*client.Session).Close)
	before := runtime.NumGoroutine()
	for range 5 {
		use((*client.Session).Close)
		use(func(s *client.Session) { s.Close(); s.Close() })
		use(func(s *client.Session) {
			ctx, cancel := context.WithCancel(t.Context())
			cancel()
			if _, err := s.Invoke(ctx, nil); !errors.Is(err, context.Canceled) {
				t.Errorf("with an ended context: %v", err)
			}
			s.Close()
		})
		use(func(s *client.Session) {
			if _, err := s.Stream(t.Context(), failing{errors.New("disk")}, nil); err == nil {
				t.Error("an input that cannot be read was sent")
			}
		})
	}
	for end := time.Now().Add(20 * time.Second); ; time.Sleep(50 * time.Millisecond) {
		now := runtime.NumGoroutine()
		if now <= before+2 {
			return
		}
		if time.Now().After(end) {
			stack := make([]byte, 1<<20)
			t.Fatalf("%d goroutines before, %d after\n%s", before, now, stack[:runtime.Stack(stack, true)])
		}
	}
}
