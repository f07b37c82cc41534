package boot

import (
	"context"
	"log/slog"
	"sync"
	"time"

	"github.com/cape-functions/cape/enclave/internal/boot/event"
	"github.com/cape-functions/cape/enclave/internal/nsm"
)

// resync is how often the clock is set by the security module: the machine's own may be
// slowed down or stopped by the host.
const resync = time.Minute

// maxSkew is how far the kernel's clock, by which certificates are checked and requests to AWS are
// signed, may be from the module's.
const maxSkew = time.Second

// clock is the security module's time, carried on by the monotonic clock in between.
type clock struct {
	read   func() (time.Time, error)
	set    func(time.Time) error     // the kernel's clock; nil: it is not the runtime's to set
	second func() (time.Time, error) // another opinion, which is only compared; nil: there is none
	log    *slog.Logger
	mu     sync.Mutex
	base   time.Time
	at     time.Time
}

// sync asks the module for its time.
func (c *clock) sync() error {
	t, err := c.read()
	if err != nil {
		return err
	}
	if c.second != nil {
		if o, err := c.second(); err == nil && o.Sub(t).Abs() > maxSkew {
			c.log.Warn(event.ClocksDiffer)
		}
	}
	return c.believe(t)
}

// believe takes a time that the module has just said.
func (c *clock) believe(t time.Time) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.base, c.at = t, time.Now()
	if c.set != nil && c.at.Sub(t).Abs() > maxSkew {
		return c.set(t)
	}
	return nil
}

// attestor keeps the clock by every document that the module makes.
type attestor struct {
	device *nsm.Device
	clock  *clock
}

// Attest implements session.Attestor.
func (a attestor) Attest(r nsm.Request) ([]byte, error) {
	doc, err := a.device.Attest(r)
	if err != nil {
		return nil, err
	}
	t, err := nsm.TimeOf(doc)
	if err != nil {
		return nil, err
	}
	return doc, a.clock.believe(t)
}

func (c *clock) now() time.Time {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.base.Add(time.Since(c.at))
}

// keep sets the clock again and again until ctx ends.
func (c *clock) keep(ctx context.Context) {
	t := time.NewTicker(resync)
	defer t.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-t.C:
			if c.sync() != nil {
				c.log.Error(event.ClockFailed)
			}
		}
	}
}
