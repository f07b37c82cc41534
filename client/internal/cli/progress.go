package cli

import (
	"fmt"
	"strings"
	"sync"
	"time"
)

// bar is a progress bar on a terminal's stderr. Elsewhere it is nothing.
type bar struct {
	app   *app
	title string
	on    bool

	mu     sync.Mutex
	last   time.Time
	drawn  bool
	closed bool
}

const barWidth = 30

// progress starts a bar: only for people who look at a terminal and read plain output.
func (a *app) progress(title string) *bar {
	dumb, _ := a.Getenv("TERM")
	b := &bar{app: a, title: title, on: a.Terminal(a.Stderr) && !a.json() && dumb != "dumb"}
	return b
}

func (b *bar) update(done, total int64) {
	if !b.on || total == 0 {
		return
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	now := b.app.Now()
	if b.closed || done < total && now.Sub(b.last) < 100*time.Millisecond {
		return
	}
	b.last, b.drawn = now, true
	filled := int(barWidth * done / total)
	fmt.Fprintf(b.app.Stderr, "\r%s [%s%s] %3d%% of %s ", b.title, strings.Repeat("=", filled), strings.Repeat(" ", barWidth-filled),
		100*done/total, size(total))
}

// done ends the line of the bar.
func (b *bar) done() {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.drawn && !b.closed {
		fmt.Fprintln(b.app.Stderr)
	}
	b.closed = true
}

func size(n int64) string {
	switch {
	case n >= 1_000_000:
		return fmt.Sprintf("%.1f MB", float64(n)/1e6)
	case n >= 1_000:
		return fmt.Sprintf("%.1f kB", float64(n)/1e3)
	}
	return fmt.Sprintf("%d bytes", n)
}
