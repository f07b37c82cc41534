package boot

import (
	"context"
	"log/slog"
	"time"

	"github.com/cape-functions/cape/enclave/internal/boot/event"
)

// schedule says when the KEK is looked at.
type schedule struct {
	every   time.Duration // while all is well
	retry   time.Duration // after a failure
	retries int           // failures in a row that are borne, when KMS only cannot be reached
}

func hourly() schedule { return schedule{every: time.Hour, retry: 20 * time.Second, retries: 3} }

// gate is what opens and closes with the KEK's state.
type gate interface {
	Open(policy []byte)
	Suspend()
}

// watchKey inspects again and again until ctx ends. What KMS says that must not be closes the
// gate at once and for good, by its error; that KMS cannot be reached closes it after a few
// tries, until it can.
func watchKey(ctx context.Context, s schedule, inspect func(context.Context) ([]byte, error), refused func(error) bool, g gate, log *slog.Logger) error {
	wait, failures := s.every, 0
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-time.After(wait):
		}
		policy, err := inspect(ctx)
		switch {
		case ctx.Err() != nil:
			return nil
		case err == nil:
			if failures > s.retries {
				log.Info(event.Serving)
			}
			g.Open(policy)
			wait, failures = s.every, 0
			continue
		case refused(err):
			g.Suspend()
			log.Error(event.Suspended)
			return err
		}
		failures++
		wait = s.retry
		log.Warn(event.InspectFailed, event.Attempt, failures)
		if failures == s.retries+1 {
			g.Suspend()
			log.Error(event.Suspended)
		}
	}
}
