package boot

import (
	"context"
	"log/slog"
	"sync"
	"time"

	"github.com/cape-functions/cape/enclave/internal/boot/event"
)

// resync is how often the clock is set by the security module: the machine's own may be
// slowed down or stopped by the host.
const resync = time.Minute

// maxSkew is how far the kernel's clock, by which certificates are checked and requests to AWS are
// signed, may be from the module's.
const maxSkew = time.Second

// clock is the security module's time, carried on by the monotonic clock in between.
type clock struct {
	read func() (time.Time, error)
	set  func(time.Time) error // the kernel's clock; nil: it is not the runtime's to set

	mu   sync.Mutex
	base time.Time
	at   time.Time
}

func newClock(read func() (time.Time, error), set func(time.Time) error) (*clock, error) {
	c := &clock{read: read, set: set}
	return c, c.sync()
}

func (c *clock) sync() error {
	t, err := c.read()
	if err != nil {
		return err
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.base, c.at = t, time.Now()
	if c.set != nil && c.at.Sub(t).Abs() > maxSkew {
		return c.set(t)
	}
	return nil
}

func (c *clock) now() time.Time {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.base.Add(time.Since(c.at))
}

// keep sets the clock again and again until ctx ends.
func (c *clock) keep(ctx context.Context, log *slog.Logger) {
	t := time.NewTicker(resync)
	defer t.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-t.C:
			if c.sync() != nil {
				log.Error(event.ClockFailed)
			}
		}
	}
}
