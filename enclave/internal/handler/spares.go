package handler

import (
	"context"
	"math"
	"os"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/cape-functions/cape/core/wire"
)

// Rules of spares: processes that are jailed, have imported a function, and are frozen until their one connection comes.
const (
	// spareFunctions and spareTotal bound for how many functions there are spares, and how many in all.
	spareFunctions = 8
	spareTotal     = 16
	sparePerOne    = 4
	// heavyImport makes a function worth a spare after a single call.
	heavyImport = 200 * time.Millisecond
	// oftenCalled is the time between calls, on average, below which a function is worth one anyway.
	oftenCalled = 2 * time.Second
	// spareIdle is how long after its last call a function keeps its spares.
	spareIdle = 2 * time.Minute
	// spareMemory is the part of the machine's free memory that spares may have together.
	spareMemory = 4
	// spareMakers import at once.
	spareMakers = 1
)

// spareKey is what two connections must have in common to be served by one kind of spare.
type spareKey struct {
	tree, work string
	limits     wire.LimitsConfig
	rpc, print bool
}

// pool is what there is for one function.
type pool struct {
	options  Options // as the spares are started
	ready    []*Process
	making   int
	last     time.Time     // call
	interval time.Duration // between calls, on average; 0: called once
	loading  time.Duration // what the import took last
	failed   bool          // it could not be imported ahead
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
	closed bool
}

func newSpares(h *Host) *spares {
	s := &spares{host: h, stop: make(chan struct{}), wake: make(chan struct{}, 1), pools: map[spareKey]*pool{}}
	for range spareMakers {
		s.work.Go(s.keep)
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
	p, now := s.pools[keyOf(o)], time.Now()
	if p == nil {
		if s.closed || len(s.pools) >= spareFunctions && !s.forget(now) {
			return nil
		}
		p = &pool{options: Options{Tree: o.Tree, Work: o.Work, Limits: o.Limits}, release: o.Hold()}
		s.pools[keyOf(o)] = p
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
		select {
		case <-spare.Done(): // it did not survive the wait
			go spare.Close()
		default:
			return spare
		}
	}
	return nil
}

// forget makes room for another function by letting go of one without spares; s.mu is held.
func (s *spares) forget(now time.Time) bool {
	for key, p := range s.pools {
		if len(p.ready) == 0 && p.making == 0 && now.Sub(p.last) > time.Second {
			delete(s.pools, key)
			go p.release()
			return true
		}
	}
	return false
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
		for key, p := s.next(); p != nil; key, p = s.next() {
			s.put(key, p, s.make(key, p))
		}
	}
}

// want is how many spares a function is worth: as many calls as come while one more is made.
func (p *pool) want(now time.Time) int {
	since := now.Sub(p.last)
	interval := max(p.interval, since/2) // calls that stopped coming are rare calls
	often := p.interval > 0 && interval < oftenCalled
	if p.failed || since > spareIdle || p.loading == 0 || !often && p.loading < heavyImport {
		return 0
	}
	if p.interval == 0 {
		return 1
	}
	return min(1+int(math.Ceil(float64(p.loading)/float64(interval))), sparePerOne)
}

// next returns a pool that wants one more spare, or nil. It counts it as being made.
func (s *spares) next() (spareKey, *pool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	total, used := 0, uint64(0)
	for _, p := range s.pools {
		total += len(p.ready) + p.making
		for _, spare := range p.ready {
			used += spare.jail.Memory()
		}
	}
	if s.closed || total >= spareTotal || used > freeMemory()/spareMemory {
		return spareKey{}, nil
	}
	now := time.Now()
	for key, p := range s.pools {
		if len(p.ready)+p.making < p.want(now) {
			p.making++
			return key, p
		}
	}
	return spareKey{}, nil
}

// make imports a function ahead; nil when it could not be.
func (s *spares) make(key spareKey, p *pool) *Process {
	ctx, cancel := context.WithTimeout(context.Background(), wire.HandlerStart)
	defer cancel()
	process, err := s.host.launch(ctx, p.options, key.rpc, key.print)
	if err != nil {
		return nil
	}
	stop := context.AfterFunc(ctx, func() { process.jail.Close() })
	defer stop()
	if process.load() != nil || !process.jail.Freezes() || process.jail.Freeze() != nil {
		process.Close()
		return nil
	}
	return process
}

// put takes in what make made.
func (s *spares) put(key spareKey, p *pool, process *Process) {
	s.mu.Lock()
	p.making--
	kept := process != nil && !s.closed && s.pools[key] == p
	if kept {
		p.ready = append(p.ready, process)
	} else if process == nil {
		p.failed = true
	}
	s.mu.Unlock()
	if process != nil && !kept {
		process.Close()
	}
}

// expire ends the spares that nobody wants any more.
func (s *spares) expire() {
	s.mu.Lock()
	now := time.Now()
	var surplus []*Process
	var releases []func()
	for key, p := range s.pools {
		for n := p.want(now); len(p.ready) > n; p.ready = p.ready[1:] {
			surplus = append(surplus, p.ready[0])
		}
		if now.Sub(p.last) > spareIdle && len(p.ready)+p.making == 0 {
			delete(s.pools, key)
			releases = append(releases, p.release)
		}
	}
	s.mu.Unlock()
	for _, p := range surplus {
		p.Close()
	}
	for _, release := range releases {
		release()
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
		for _, process := range p.ready {
			process.Close()
		}
		p.release()
	}
}

// freeMemory is how much memory the machine can give, in bytes.
func freeMemory() uint64 {
	data, err := os.ReadFile("/proc/meminfo")
	if err != nil {
		return 0
	}
	for line := range strings.Lines(string(data)) {
		if f := strings.Fields(line); len(f) > 1 && f[0] == "MemAvailable:" {
			kib, err := strconv.ParseUint(f[1], 10, 64)
			if err != nil {
				return 0
			}
			return kib << 10
		}
	}
	return 0
}
