package session

import (
	"sync"
	"sync/atomic"
	"time"
)

// watch ends what makes no progress. Noting progress is one atomic store, so that a quick
// exchange pays for no timer.
type watch struct {
	start time.Time
	last  atomic.Int64 // nanoseconds since start
	limit atomic.Int64 // nanoseconds
	busy  atomic.Int64 // how much work the enclave itself is doing: no client's fault

	mu      sync.Mutex
	stopped bool
	timer   *time.Timer
}

func newWatch(limit time.Duration) *watch {
	w := &watch{start: time.Now()}
	w.expect(limit)
	return w
}

// run calls expire, once, when longer than the limit passed since the last progress, at most
// a tick late.
func (w *watch) run(tick time.Duration, expire func()) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.timer = time.AfterFunc(tick, func() {
		if w.expired() {
			w.stop()
			expire()
			return
		}
		w.mu.Lock()
		defer w.mu.Unlock()
		if !w.stopped {
			w.timer.Reset(tick)
		}
	})
}

func (w *watch) expired() bool {
	if w.busy.Load() > 0 {
		w.touch()
		return false
	}
	return int64(time.Since(w.start))-w.last.Load() > w.limit.Load()
}

// touch notes progress.
func (w *watch) touch() { w.last.Store(int64(time.Since(w.start))) }

// expect notes progress and sets how long the next may take.
func (w *watch) expect(limit time.Duration) {
	w.touch()
	w.limit.Store(int64(limit))
}

// begin and end surround what the enclave does by itself.
func (w *watch) begin() { w.busy.Add(1) }

func (w *watch) end() {
	w.touch()
	w.busy.Add(-1)
}

func (w *watch) stop() {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.stopped = true
	w.timer.Stop()
}
