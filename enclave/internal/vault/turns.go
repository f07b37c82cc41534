package vault

import (
	"context"
	"sync"

	"github.com/cape-functions/cape/core/wire"
)

// turns let each owner do one thing at a time, in the order in which they asked.
type turns struct {
	mu sync.Mutex
	by map[wire.Subject]*turn
}

type turn struct {
	place chan struct{}
	users int // who have it or wait
}

func (t *turns) take(ctx context.Context, owner wire.Subject) (next func(), err error) {
	t.mu.Lock()
	one := t.by[owner]
	if one == nil {
		if t.by == nil {
			t.by = map[wire.Subject]*turn{}
		}
		one = &turn{place: make(chan struct{}, 1)}
		t.by[owner] = one
	}
	one.users++
	t.mu.Unlock()
	leave := func() {
		t.mu.Lock()
		defer t.mu.Unlock()
		if one.users--; one.users == 0 {
			delete(t.by, owner)
		}
	}
	select {
	case one.place <- struct{}{}:
		return func() { <-one.place; leave() }, nil
	case <-ctx.Done():
		leave()
		return nil, ctx.Err()
	}
}
