package handler

import (
	"cmp"
	"context"
	"math"
	"slices"
	"sync"
	"time"

	"github.com/cape-functions/cape/core/wire"
)

// Rules of spares: processes that are jailed, have imported a function, and are frozen until their one connection comes.
const (
	// spareFunctions bounds for how many functions there are spares, sparePerOne how many each has.
	spareFunctions = 8
	sparePerOne    = 4
	// heavyImport makes a function worth a spare after a single call.
	heavyImport = 200 * time.Millisecond
	// oftenCalled is the time between calls, on average, below which a function is worth one anyway.
	oftenCalled = 2 * time.Second
	// spareIdle is how long after its last call a function keeps its spares.
	spareIdle = 2 * time.Minute
	// spareImport is how long an import ahead may take, and spareRetry when one that failed is tried again.
	spareImport, spareRetry = 20 * time.Second, time.Minute
	// spareMakers import at once, never two for one owner.
	spareMakers = 2
)

// spareKey is what two connections must have in common to be served by one kind of spare.
type spareKey struct {
	tree, work string
	limits     wire.LimitsConfig
	rpc, print bool
}

// pool is what there is for one function.
type pool struct {
	key      spareKey
	options  Options // as the spares are started
	ready    []*Process
	making   int
	last     time.Time     // call
	interval time.Duration // between calls, on average; 0: called once
	loading  time.Duration // what the import took last
	memory   uint64        // of one spare; 0: not known yet
	rest     time.Time     // until when none is made: the last could not be
	release  func()        // lets go of the function's folder
}

// spares are the pools of a host.
type spares struct {
	host *Host
	stop chan struct{}
	wake chan struct{}
	work sync.WaitGroup

	mu     sync.Mutex
	pools  map[spareKey]*pool
	spent  map[any]time.Duration // on imports, by owner; slowly forgotten
	closed bool
}

func newSpares(h *Host) *spares {
	s := &spares{host: h, stop: make(chan struct{}), wake: make(chan struct{}, 1), pools: map[spareKey]*pool{}, spent: map[any]time.Duration{}}
	if s.closed = !h.sandbox.Freezes(); !s.closed {
		for range spareMakers {
			s.work.Go(s.keep)
		}
	}
	return s
}

func keyOf(o Options) spareKey {
	return spareKey{tree: o.Tree, work: o.Work, limits: o.Limits, rpc: o.RPC != nil, print: o.Stdout != nil || o.Stderr != nil}
}

// take notes a call of a function and returns a spare, if there is one.
func (s *spares) take(o Options) *Process {
	if o.Hold == nil {
		return nil
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	key, now := keyOf(o), time.Now()
	p := s.pools[key]
	if p == nil {
		if s.closed {
			return nil
		}
		if len(s.pools) >= spareFunctions {
			other := s.forget(o.Owner, now)
			if other == nil {
				return nil
			}
			go other.end()
		}
		p = &pool{key: key, options: Options{Tree: o.Tree, Work: o.Work, Limits: o.Limits, Owner: o.Owner}, release: o.Hold()}
		s.pools[key] = p
	} else {
		gap := max(now.Sub(p.last), time.Microsecond)
		if p.interval == 0 {
			p.interval = gap
		}
		p.interval = (3*p.interval + gap) / 4
	}
	p.last = now
	defer s.nudge()
	for len(p.ready) > 0 {
		spare := p.ready[0]
		p.ready = p.ready[1:]
		if spare.jail.Alive() {
			return spare
		}
		go spare.Close() // it did not survive the wait
	}
	return nil
}

// end closes a pool's spares, and lets go of the function; the pool is no longer in the list.
func (p *pool) end() {
	for _, spare := range p.ready {
		spare.Close()
	}
	p.release()
}

// loaded notes what an import took.
func (s *spares) loaded(o Options, took time.Duration) {
	s.mu.Lock()
	if p := s.pools[keyOf(o)]; p != nil {
		p.loading = took
	}
	s.mu.Unlock()
	s.nudge()
}

func (s *spares) nudge() {
	select {
	case s.wake <- struct{}{}:
	default:
	}
}

// keep makes spares where they are wanted and ends those that are not, until close.
func (s *spares) keep() {
	tick := time.NewTicker(time.Second)
	defer tick.Stop()
	for {
		select {
		case <-s.stop:
			return
		case <-s.wake:
		case <-tick.C:
			s.expire()
		}
		for p := s.next(); p != nil; p = s.next() {
			begin := time.Now()
			s.put(p, s.make(p), time.Since(begin))
		}
	}
}

// want is how many spares a function is worth: as many calls as come while one more is made.
func (p *pool) want(now time.Time) int {
	since := now.Sub(p.last)
	interval := max(p.interval, since/2) // calls that stopped coming are rare calls
	often := p.interval > 0 && interval < oftenCalled
	if since > spareIdle || p.loading == 0 || !often && p.loading < heavyImport {
		return 0
	}
	if p.interval == 0 {
		return 1
	}
	return min(1+int(math.Ceil(float64(p.loading)/float64(interval))), sparePerOne)
}

// next returns a pool that wants one more spare for which there is room, of the owner for whom least was imported lately, or nil. It counts
// it as being made.
func (s *spares) next() *pool {
	r := newRoom()
	defer r.close()
	s.mu.Lock()
	defer s.mu.Unlock()
	busy := map[any]bool{}
	for _, p := range s.pools {
		busy[p.options.Owner] = busy[p.options.Owner] || p.making > 0
	}
	var wanting []*pool
	now := time.Now()
	for _, p := range s.pools {
		if !busy[p.options.Owner] && !now.Before(p.rest) && len(p.ready) < p.want(now) {
			wanting = append(wanting, p)
		}
	}
	slices.SortFunc(wanting, func(a, b *pool) int { return cmp.Compare(s.spent[a.options.Owner], s.spent[b.options.Owner]) })
	for _, p := range wanting {
		if !s.closed && r.fits(s.pools, p.options.Owner, p.memory) {
			p.making++
			return p
		}
	}
	return nil
}

// make imports a function ahead; nil when it could not be.
func (s *spares) make(p *pool) *Process {
	ctx, cancel := context.WithTimeout(context.Background(), spareImport)
	defer cancel()
	process, err := s.host.launch(ctx, p.options, p.key.rpc, p.key.print)
	if err != nil {
		return nil
	}
	stop := context.AfterFunc(ctx, func() { process.jail.Close() })
	defer stop()
	if process.load() != nil || process.jail.Freeze() != nil || ctx.Err() != nil {
		process.Close()
		return nil
	}
	process.memory = cmp.Or(process.jail.Memory(), p.key.limits.Memory+p.key.limits.Scratch) // at most, where nobody counts
	return process
}

// put takes in what make made, and in which time.
func (s *spares) put(p *pool, process *Process, took time.Duration) {
	r := newRoom()
	defer r.close()
	s.mu.Lock()
	defer s.mu.Unlock()
	p.making--
	s.spent[p.options.Owner] += took
	if process == nil {
		p.rest = time.Now().Add(spareRetry)
		return
	}
	p.memory = process.memory
	if !s.closed && s.pools[p.key] == p && r.fits(s.pools, p.options.Owner, p.memory) {
		p.ready = append(p.ready, process)
	} else {
		r.taken = append(r.taken, process)
	}
}

// expire ends the spares that nobody wants any more, or for which there is no longer the memory.
func (s *spares) expire() {
	r := newRoom()
	defer r.close()
	s.mu.Lock()
	defer s.mu.Unlock()
	now := time.Now()
	for key, p := range s.pools {
		for n := p.want(now); len(p.ready) > n; p.ready = p.ready[1:] {
			r.taken = append(r.taken, p.ready[0])
		}
		if now.Sub(p.last) > spareIdle && p.making == 0 {
			delete(s.pools, key)
			go p.release()
		}
	}
	r.shrink(s.pools)
	for owner, spent := range s.spent {
		if s.spent[owner] = spent - spent/64; spent < time.Millisecond {
			delete(s.spent, owner)
		}
	}
}

// close ends all spares.
func (s *spares) close() {
	s.mu.Lock()
	if s.closed {
		s.mu.Unlock()
		return
	}
	s.closed = true
	pools := s.pools
	s.pools = map[spareKey]*pool{}
	s.mu.Unlock()
	close(s.stop)
	s.work.Wait()
	for _, p := range pools {
		p.end()
	}
}
