package handler

import (
	"fmt"
	"os"
	"strings"
	"time"
)

const (
	// spareMemory is the part of the machine's free memory that spares may have together.
	spareMemory = 4
	// spareTotal is how many spares there may be: none counts for less than this part of that memory.
	spareTotal = 16
)

// room is the memory that spares may have, at one moment. It collects the spares that lose theirs.
type room struct {
	budget uint64
	taken  []*Process
}

func newRoom() *room { return &room{budget: freeMemory() / spareMemory} }

// close ends the spares that were taken; no lock is held.
func (r *room) close() {
	for _, p := range r.taken {
		p.Close()
	}
}

// weight is what a spare counts for, in bytes. One that is being made may not have told yet.
func (r *room) weight(memory uint64) uint64 { return max(memory, r.budget/spareTotal) }

// shares tells what each owner has, and all of them.
func (r *room) shares(pools map[spareKey]*pool) (by map[any]uint64, all uint64) {
	by = map[any]uint64{}
	for _, p := range pools {
		n := uint64(p.making) * r.weight(p.memory)
		for _, spare := range p.ready {
			n += r.weight(spare.memory)
		}
		by[p.options.Owner] += n
		all += n
	}
	return by, all
}

// fits says whether owner may have one more spare of so many bytes. To make room it takes spares from owners who have more than owner
// will have then.
func (r *room) fits(pools map[spareKey]*pool, owner any, memory uint64) bool {
	for {
		by, all := r.shares(pools)
		need := r.weight(memory)
		if all+need <= r.budget {
			return true
		}
		if !r.take(pools, by, by[owner]+need) {
			return false
		}
	}
}

// shrink takes spares from who has most until what is left fits.
func (r *room) shrink(pools map[spareKey]*pool) {
	for by, all := r.shares(pools); all > r.budget && r.take(pools, by, 0); by, all = r.shares(pools) {
	}
}

// take takes a spare from the owner who has most, if that is more than so many bytes: of the function that was called least lately.
func (r *room) take(pools map[spareKey]*pool, by map[any]uint64, more uint64) bool {
	var victim *pool
	for _, p := range pools {
		has := by[p.options.Owner]
		if len(p.ready) == 0 || has <= more {
			continue
		}
		if victim == nil || has > by[victim.options.Owner] || has == by[victim.options.Owner] && p.last.Before(victim.last) {
			victim = p
		}
	}
	if victim == nil {
		return false
	}
	r.taken = append(r.taken, victim.ready[0])
	victim.ready = victim.ready[1:]
	return true
}

// forget makes room for another function of owner's, by letting go of the one that was called least lately: of an owner who has more,
// else of the owner's own, and for who has none of anybody's who has rested a while. The caller ends it, if there is one. s.mu is held.
func (s *spares) forget(owner any, now time.Time) *pool {
	count := map[any]int{}
	most := 0
	for _, p := range s.pools {
		count[p.options.Owner]++
		most = max(most, count[p.options.Owner])
	}
	mine := count[owner]
	var victim *pool
	for _, p := range s.pools {
		whose, rested := p.options.Owner, now.Sub(p.last)
		may := count[whose] == most && most > mine+1
		if most <= mine+1 {
			may = (whose == owner || mine == 0) && rested > oftenCalled
		}
		if may && p.making == 0 && (victim == nil || p.last.Before(victim.last)) {
			victim = p
		}
	}
	if victim != nil {
		delete(s.pools, victim.key)
	}
	return victim
}

// freeMemory is how much memory the machine can give, in bytes.
func freeMemory() (kib uint64) {
	data, err := os.ReadFile("/proc/meminfo")
	if _, rest, ok := strings.Cut(string(data), "MemAvailable:"); err == nil && ok {
		fmt.Sscan(rest, &kib) // 0 when it is no number
	}
	return kib << 10
}
