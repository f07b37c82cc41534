package vault

import (
	"container/list"
	"context"
	"os"
	"sync"
)

// tree is an unpacked function.
type tree struct {
	dir   string // absolute
	work  string // below dir, holds app.py
	bytes int64
}

// cache keeps unpacked functions, the least recently used of which make room for others.
// Entries in use are never removed. All entries together, temporary ones too, hold at most
// max bytes.
type cache struct {
	max   int64
	yield func() bool // lets go of an entry that is held but could be let go of; false: of none

	mu      sync.Mutex
	total   int64
	entries map[[32]byte]*entry
	unused  *list.List // of *entry, least recently used first
}

type entry struct {
	key   [32]byte
	named bool // stands in entries
	refs  int
	place *list.Element // in unused, while nobody uses it

	cancel context.CancelFunc
	done   chan struct{} // closed when loaded or failed
	tree   tree          // set before done is closed
	err    error         // set before done is closed
}

func newCache(max int64) *cache {
	return &cache{max: max, yield: func() bool { return false }, entries: make(map[[32]byte]*entry), unused: list.New()}
}

// get returns the entry of key, which the caller must release. The first who asks causes
// load, whose context ends when nobody waits any more; claimed tells whether that was the
// caller.
func (c *cache) get(ctx context.Context, key [32]byte, load func(context.Context) (tree, error)) (e *entry, claimed bool, err error) {
	c.mu.Lock()
	e, ok := c.entries[key]
	if !ok {
		loadCtx, cancel := context.WithCancel(context.WithoutCancel(ctx))
		e = &entry{key: key, named: true, cancel: cancel, done: make(chan struct{})}
		c.entries[key] = e
		go c.load(loadCtx, e, load)
	}
	c.hold(e)
	c.mu.Unlock()
	select {
	case <-e.done:
		err = e.err
	case <-ctx.Done():
		err = ctx.Err()
	}
	if err != nil {
		c.release(e)
		return nil, !ok, err
	}
	return e, !ok, nil
}

func (c *cache) load(ctx context.Context, e *entry, load func(context.Context) (tree, error)) {
	t, err := load(ctx)
	if err == nil {
		err = c.account(t)
	}
	c.mu.Lock()
	e.tree, e.err = t, err
	var drop []string
	switch {
	case err != nil:
		c.forget(e)
	case e.refs == 0: // everybody left meanwhile
		c.forget(e)
		c.total -= t.bytes
		drop = append(drop, t.dir)
	}
	close(e.done)
	c.mu.Unlock()
	e.cancel()
	remove(drop)
}

// account makes room for t, or removes it and returns ErrNoRoom.
func (c *cache) account(t tree) error {
	c.mu.Lock()
	c.total += t.bytes
	drop := c.evict()
	for c.total > c.max {
		c.mu.Unlock()
		yielded := c.yield()
		c.mu.Lock()
		if !yielded {
			break
		}
		drop = append(drop, c.evict()...)
	}
	full := c.total > c.max
	if full {
		c.total -= t.bytes
		drop = append(drop, t.dir)
	}
	c.mu.Unlock()
	remove(drop)
	if full {
		return ErrNoRoom
	}
	return nil
}

// adopt counts a tree that nobody else will ever ask for.
func (c *cache) adopt(t tree) (*entry, error) {
	if err := c.account(t); err != nil {
		return nil, err
	}
	e := &entry{refs: 1, tree: t, cancel: func() {}, done: make(chan struct{})}
	close(e.done)
	return e, nil
}

// hold notes a user of e; c.mu is held.
func (c *cache) hold(e *entry) {
	e.refs++
	if e.place != nil {
		c.unused.Remove(e.place)
		e.place = nil
	}
}

// release ends one use.
func (c *cache) release(e *entry) {
	c.mu.Lock()
	var drop []string
	if e.refs--; e.refs == 0 {
		drop = c.idle(e)
	}
	c.mu.Unlock()
	remove(drop)
}

// idle decides what becomes of an entry that nobody uses; c.mu is held.
func (c *cache) idle(e *entry) (drop []string) {
	select {
	case <-e.done:
	default:
		e.cancel() // nobody waits for it any more, and the next one shall not get its failure
		c.forget(e)
		return nil
	}
	switch {
	case e.err != nil:
		return nil
	case !e.named:
		c.total -= e.tree.bytes
		return []string{e.tree.dir}
	}
	e.place = c.unused.PushBack(e)
	return c.evict()
}

// evict takes unused entries out until the rest fits; c.mu is held.
func (c *cache) evict() (drop []string) {
	for c.total > c.max && c.unused.Len() > 0 {
		e, _ := c.unused.Remove(c.unused.Front()).(*entry)
		e.place = nil
		c.forget(e)
		c.total -= e.tree.bytes
		drop = append(drop, e.tree.dir)
	}
	return drop
}

// forget takes e out of the index; c.mu is held.
func (c *cache) forget(e *entry) {
	if c.entries[e.key] == e {
		delete(c.entries, e.key)
	}
}

// remove deletes trees; what cannot be deleted stays until the enclave ends.
func remove(dirs []string) {
	for _, d := range dirs {
		_ = os.RemoveAll(d)
	}
}
