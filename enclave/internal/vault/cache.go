package vault

import (
	"container/list"
	"context"
	"os"
	"sync"

	"github.com/cape-functions/cape/core/wire"
)

// tree is an unpacked function.
type tree struct {
	dir  string // absolute
	work string // below dir, holds app.py
}

// cache keeps unpacked functions, the least recently used of which make room for others.
// Entries in use are never removed. All entries together, temporary ones and those that are being
// unpacked too, hold at most max bytes, and one owner's that are in use no more than is left for others.
type cache struct {
	max   int64
	yield func() bool // lets go of an entry that is held but could be let go of; false: of none

	mu      sync.Mutex
	total   int64
	inUse   int64
	by      map[wire.Subject]int64 // of inUse, by owner
	entries map[[32]byte]*entry
	unused  *list.List // of *entry, least recently used first
}

type entry struct {
	key   [32]byte
	owner wire.Subject
	bytes int64 // what it may take, from when that is known
	named bool  // stands in entries
	refs  int
	place *list.Element // in unused, while nobody uses it

	cancel context.CancelFunc
	done   chan struct{} // closed when loaded or failed
	tree   tree          // set before done is closed
	err    error         // set before done is closed
}

func newCache(max int64) *cache {
	return &cache{max: max, yield: func() bool { return false }, by: make(map[wire.Subject]int64), entries: make(map[[32]byte]*entry), unused: list.New()}
}

// get returns the entry of key, which the caller must release. The first who asks causes
// load, whose context ends when nobody waits any more; claimed tells whether that was the
// caller. Load has it admit what the tree takes before it writes any of it.
func (c *cache) get(ctx context.Context, key [32]byte, owner wire.Subject, load func(context.Context, admit) (tree, error)) (e *entry, claimed bool, err error) {
	c.mu.Lock()
	e, ok := c.entries[key]
	if ok && e.place != nil && !c.fits(e.owner, e.bytes) {
		c.mu.Unlock()
		return nil, false, ErrNoRoom
	}
	if !ok {
		loadCtx, cancel := context.WithCancel(context.WithoutCancel(ctx))
		e = &entry{key: key, owner: owner, named: true, cancel: cancel, done: make(chan struct{})}
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

// admit makes room for so many bytes, once. Error: ErrNoRoom.
type admit = func(bytes int64) error

func (c *cache) load(ctx context.Context, e *entry, load func(context.Context, admit) (tree, error)) {
	t, err := load(ctx, func(n int64) error { return c.account(e, n) })
	c.mu.Lock()
	e.tree, e.err = t, err
	var drop []string
	if err == nil && e.refs == 0 { // everybody left meanwhile
		drop = append(drop, t.dir)
	}
	if err != nil || e.refs == 0 {
		c.forget(e)
		c.drop(e)
	}
	close(e.done)
	c.mu.Unlock()
	e.cancel()
	remove(drop)
}

// account makes room for n bytes of e, which is in use.
func (c *cache) account(e *entry, n int64) error {
	c.mu.Lock()
	drop := c.evict(n)
	for c.total+n > c.max || !c.fits(e.owner, n) {
		c.mu.Unlock()
		yielded := c.yield()
		c.mu.Lock()
		drop = append(drop, c.evict(n)...)
		if !yielded {
			c.mu.Unlock()
			remove(drop)
			return ErrNoRoom
		}
	}
	e.bytes = n
	c.total += n
	c.use(e, n)
	c.mu.Unlock()
	remove(drop)
	return nil
}

// fits tells whether an owner may use n bytes more; c.mu is held, as it is for use and drop.
func (c *cache) fits(owner wire.Subject, n int64) bool { return c.by[owner]+n <= c.max-c.inUse }

// use counts n bytes of e as in use, or -n as not any more.
func (c *cache) use(e *entry, n int64) {
	c.inUse += n
	if c.by[e.owner] += n; c.by[e.owner] == 0 {
		delete(c.by, e.owner)
	}
}

// drop ends the counting of e, which was in use.
func (c *cache) drop(e *entry) {
	c.total -= e.bytes
	c.use(e, -e.bytes)
	e.bytes = 0
}

// adopt has load unpack a tree that nobody else will ever ask for.
func (c *cache) adopt(owner wire.Subject, load func(admit) (tree, error)) (e *entry, err error) {
	e = &entry{owner: owner, refs: 1, cancel: func() {}, done: make(chan struct{})}
	close(e.done)
	e.tree, err = load(func(n int64) error { return c.account(e, n) })
	if err != nil {
		c.mu.Lock()
		defer c.mu.Unlock()
		c.drop(e)
		return nil, err
	}
	return e, nil
}

// hold notes a user of e; c.mu is held.
func (c *cache) hold(e *entry) {
	e.refs++
	if e.place != nil {
		c.unused.Remove(e.place)
		e.place = nil
		c.use(e, e.bytes)
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
		c.drop(e)
		return []string{e.tree.dir}
	}
	c.use(e, -e.bytes)
	e.place = c.unused.PushBack(e)
	return nil
}

// evict takes unused entries out until n bytes more fit; c.mu is held.
func (c *cache) evict(n int64) (drop []string) {
	for c.total+n > c.max && c.unused.Len() > 0 {
		e, _ := c.unused.Remove(c.unused.Front()).(*entry)
		e.place = nil
		c.forget(e)
		c.total -= e.bytes
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
