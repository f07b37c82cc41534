package handler

import (
	"testing"
	"time"
)

// frozen are spares that use so much memory.
func frozen(memory ...uint64) (all []*Process) {
	for _, m := range memory {
		all = append(all, &Process{memory: m})
	}
	return all
}

// poolsOf gives each owner named a pool with its spares, called one after the other.
func poolsOf(all ...*pool) map[spareKey]*pool {
	m := map[spareKey]*pool{}
	for i, p := range all {
		p.key = spareKey{tree: string(rune('a' + i))}
		p.last = time.Now().Add(time.Duration(i-100) * time.Second)
		m[p.key] = p
	}
	return m
}

// TestRoomIsShared: one owner gets what nobody else wants, and gives it up when somebody does.
func TestRoomIsShared(t *testing.T) {
	greedy, other := Options{Owner: "greedy"}, Options{Owner: "other"}
	for name, c := range map[string]struct {
		pools  []*pool
		owner  any
		memory uint64
		fits   bool
		taken  int
		from   int // of pools
	}{
		"empty":                         {nil, "other", 100, true, 0, 0},
		"larger than all":               {nil, "other", 1601, false, 0, 0},
		"there is room":                 {[]*pool{{options: greedy, ready: frozen(700, 700)}}, "other", 200, true, 0, 0},
		"small ones count too":          {[]*pool{{options: greedy, ready: frozen(make([]uint64, spareTotal)...)}}, "greedy", 0, false, 0, 0},
		"and give way":                  {[]*pool{{options: greedy, ready: frozen(make([]uint64, spareTotal)...)}}, "other", 0, true, 1, 0},
		"so do large ones":              {[]*pool{{options: greedy, ready: frozen(500, 500, 500)}}, "other", 400, true, 1, 0},
		"the least lately called":       {[]*pool{{options: greedy, ready: frozen(800)}, {options: greedy, ready: frozen(800)}}, "other", 100, true, 1, 0},
		"not to who has as much":        {[]*pool{{options: greedy, ready: frozen(800)}, {options: other, ready: frozen(800)}}, "other", 100, false, 0, 0},
		"not to who would have more":    {[]*pool{{options: greedy, ready: frozen(800, 800)}}, "other", 1600, false, 0, 0},
		"what is being made counts":     {[]*pool{{options: greedy, making: 1, memory: 1600}}, "other", 100, false, 0, 0},
		"as much as is known of it":     {[]*pool{{options: greedy, making: 1}}, "other", 1500, true, 0, 0},
		"from the one who has the most": {[]*pool{{options: other, ready: frozen(400)}, {options: greedy, ready: frozen(600, 600)}}, "third", 100, true, 1, 1},
	} {
		r := &room{budget: 1600}
		pools := poolsOf(c.pools...)
		before := 0
		if len(c.pools) > 0 {
			before = len(c.pools[c.from].ready)
		}
		if got := r.fits(pools, c.owner, c.memory); got != c.fits || len(r.taken) != c.taken {
			t.Errorf("%s: %v, %d taken", name, got, len(r.taken))
		}
		if c.taken > 0 && len(c.pools[c.from].ready) != before-c.taken {
			t.Errorf("%s: taken from somebody else", name)
		}
	}
	a, b := &pool{options: greedy, ready: frozen(500, 500)}, &pool{options: other, ready: frozen(300)}
	r := &room{budget: 800}
	if r.shrink(poolsOf(a, b)); len(r.taken) != 1 || len(a.ready) != 1 {
		t.Errorf("with less memory: %d taken", len(r.taken))
	}
	if freeMemory() < 1<<20 {
		t.Errorf("this machine has %d bytes of free memory", freeMemory())
	}
}

// TestSparesTurns: the maker's time goes round among owners, and no owner has two imports at once.
func TestSparesTurns(t *testing.T) {
	s := &spares{spent: map[any]time.Duration{}}
	pools := make([]*pool, 5)
	for i := range pools {
		pools[i] = &pool{loading: time.Second, options: Options{Owner: "greedy"}}
	}
	pools[4].options.Owner = "other"
	s.pools = poolsOf(pools...)
	for _, p := range pools {
		p.last = time.Now()
	}
	s.spent["greedy"] = time.Second
	first := s.next()
	if first != pools[4] {
		t.Fatalf("the first is %+v", first)
	}
	second := s.next()
	if second == nil || second.options.Owner != "greedy" {
		t.Fatalf("the second is %+v", second)
	}
	if third := s.next(); third != nil {
		t.Errorf("a third at once is %+v", third)
	}
	s.put(second, nil, 20*time.Second)
	if s.spent["greedy"] != 21*time.Second {
		t.Errorf("an import that failed took %s", s.spent["greedy"])
	}
	for _, p := range pools {
		if p.options.Owner == "greedy" {
			p.memory = 1 << 60
		}
	}
	s.put(first, nil, 0)
	first.rest = time.Time{}
	if next := s.next(); next != first {
		t.Errorf("one for which there is no room keeps others from theirs: %+v", next)
	}
	for _, p := range pools {
		p.memory = 0
	}
	s.put(first, nil, time.Minute)
	if next := s.next(); next == nil || next == second || next.options.Owner != "greedy" {
		t.Errorf("then it is %+v", next)
	}
	for range 2000 {
		s.expire()
	}
	if len(s.spent) != 0 {
		t.Errorf("never forgotten: %v", s.spent)
	}
}
