package gateway

import (
	"context"
	"time"
)

// drainLook is how often Drain looks whether the last connection has ended.
const drainLook = 100 * time.Millisecond

// Drain refuses new connections and waits for those that are carried to end by
// themselves, at most until ctx is done. It returns how many are left; Close
// ends those.
func (g *Gateway) Drain(ctx context.Context) int {
	g.mu.Lock()
	g.draining = true
	g.mu.Unlock()
	for {
		left := g.Active()
		if left == 0 {
			return 0
		}
		select {
		case <-ctx.Done():
			return left
		case <-time.After(drainLook):
		}
	}
}
