package handler

import (
	"context"
	"errors"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"
	"time"
)

// slow is a function whose import takes a while, and which tells processes apart.
const slow = "import os, threading, time\ntime.sleep(.3)\nme, born, n, calls = os.urandom(8).hex(), time.monotonic(), 0, 0\n" +
	"def count():\n  global n\n  while True: n += 1; time.sleep(.01)\nthreading.Thread(target=count, daemon=True).start()\n" +
	"def cape_handler(x):\n  global calls\n  calls += 1\n  return f'{me} {calls} {n} {time.monotonic() - born:.3f}'\n"

// spareHost has a function whose folder is held as often as held says.
func spareHost(t *testing.T, app string) (h *Host, o Options, held *atomic.Int32) {
	t.Helper()
	h, held = newHost(t), new(atomic.Int32)
	o = Options{Tree: tree(t, map[string]string{"app.py": app}), Work: "fn", Hold: func() func() {
		held.Add(1)
		return func() { held.Add(-1) }
	}}
	return h, o, held
}

// once runs the function in a connection of its own.
func once(t *testing.T, h *Host, o Options) (string, time.Duration, error) {
	t.Helper()
	begin := time.Now()
	p, err := h.Start(t.Context(), o)
	if err != nil {
		t.Fatal(err)
	}
	defer p.Close()
	out, err := invoke(t, p, "x")
	return out, time.Since(begin), err
}

// ready counts the spares that wait.
func (s *spares) ready() (n int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, p := range s.pools {
		n += len(p.ready)
	}
	return n
}

func eventually(t testing.TB, name string, what func() bool) {
	t.Helper()
	for end := time.Now().Add(20 * time.Second); !what(); time.Sleep(5 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("it does not happen: %s", name)
		}
	}
}

func TestSpares(t *testing.T) {
	h, o, held := spareHost(t, slow)
	if !h.sandbox.Freezes() {
		return // there are none
	}
	const idle = 1500 * time.Millisecond
	seen := map[string]bool{}
	for i := range 4 {
		if i > 0 {
			eventually(t, "a spare waits", func() bool { return h.spares.ready() > 0 })
			time.Sleep(idle) // in which it does nothing
		}
		out, _, err := once(t, h, o)
		f := strings.Fields(out)
		if err != nil || len(f) != 4 || f[1] != "1" || seen[f[0]] {
			t.Fatalf("call %d: %q, %v: not a process of its own", i, out, err)
		}
		seen[f[0]] = true
		count, err := strconv.Atoi(f[2])
		age, err2 := strconv.ParseFloat(f[3], 64)
		if err := errors.Join(err, err2); err != nil {
			t.Fatal(err)
		}
		// Awake, it would count to a hundred in a second; a busy machine may be late to stop it.
		if i > 0 && (count > 60 || age < idle.Seconds()) {
			t.Errorf("call %d: the process is %.3f s old, and counted to %d while it waited", i, age, count)
		}
	}
	if held.Load() != 1 {
		t.Errorf("held %d times", held.Load())
	}
	h.spares.close()
	if held.Load() != 0 || h.spares.ready() != 0 {
		t.Errorf("after close: held %d times, %d spares", held.Load(), h.spares.ready())
	}
}

// TestSparesServeOneConnectionsRPC: a spare answers to the connection that it is given to.
func TestSparesServeOneConnectionsRPC(t *testing.T) {
	h, o, _ := spareHost(t, client+slow[:strings.Index(slow, "def cape_handler")]+"def cape_handler(x): return call('CapeEncryptRPC.Decrypt', 'cape:')['result']")
	if !h.sandbox.Freezes() {
		return
	}
	for i, want := range []string{"Zmlyc3Q=", "c2Vjb25k"} {
		if i > 0 {
			eventually(t, "a spare waits", func() bool { return h.spares.ready() > 0 })
		}
		o.RPC = func(context.Context, string, []byte) ([]byte, error) {
			return []byte([]string{"first", "second"}[i]), nil
		}
		if out, _, err := once(t, h, o); err != nil || out != want {
			t.Errorf("connection %d: %q, %v", i, out, err)
		}
	}
}

func TestSparesEnd(t *testing.T) {
	h, o, held := spareHost(t, slow)
	if !h.sandbox.Freezes() {
		return
	}
	if _, _, err := once(t, h, o); err != nil {
		t.Fatal(err)
	}
	eventually(t, "a spare waits", func() bool { return h.spares.ready() > 0 })
	h.spares.mu.Lock()
	pool := h.spares.pools[keyOf(Options{Tree: o.Tree, Work: o.Work, Limits: withDefaults(o.Limits)})]
	spare := pool.ready[0]
	h.spares.mu.Unlock()
	spare.jail.Close() // as if the kernel had ended it for want of memory
	if out, _, err := once(t, h, o); err != nil {
		t.Errorf("after a spare died: %q, %v", out, err)
	}
	eventually(t, "another spare waits", func() bool { return h.spares.ready() > 0 })
	h.spares.mu.Lock()
	pool.last = time.Now().Add(-2 * spareIdle)
	h.spares.mu.Unlock()
	eventually(t, "spares of a function that nobody calls end", func() bool { return h.spares.ready() == 0 && held.Load() == 0 })
}

// TestSparesNotOfBroken: what cannot be imported is not tried ahead for ever.
func TestSparesNotOfBroken(t *testing.T) {
	h, o, _ := spareHost(t, "import os, time\ntime.sleep(.25)\nif os.path.exists('fail'): raise ValueError\ndef cape_handler(x): return x")
	if !h.sandbox.Freezes() {
		return
	}
	key := keyOf(Options{Tree: o.Tree, Work: o.Work, Limits: withDefaults(o.Limits)})
	p := &pool{key: key, options: Options{Tree: "/nowhere", Work: "fn", Limits: key.limits}, last: time.Now(), loading: time.Second, release: func() {}}
	h.spares.mu.Lock()
	h.spares.pools[key] = p
	h.spares.mu.Unlock()
	h.spares.nudge()
	eventually(t, "it was tried", func() bool { h.spares.mu.Lock(); defer h.spares.mu.Unlock(); return !p.rest.IsZero() })
	if next := h.spares.next(); next != nil {
		t.Error("one more is made at once")
	}
	if out, _, err := once(t, h, o); err != nil || out != "x" {
		t.Errorf("%q, %v", out, err)
	}
	broken := Options{Tree: tree(t, map[string]string{"app.py": "raise ValueError"}), Work: "fn", Hold: o.Hold}
	var e *FunctionError
	for range 3 {
		if _, _, err := once(t, h, broken); !errors.As(err, &e) {
			t.Errorf("a function that raises in import: %v", err)
		}
	}
}

// TestSparesAgainstGreed: one owner's many functions, whose imports take long and much, do not keep another's from its spare.
func TestSparesAgainstGreed(t *testing.T) {
	h, honest, _ := spareHost(t, slow)
	if !h.sandbox.Freezes() {
		return // there are none
	}
	honest.Owner = "honest"
	stop, ended := make(chan struct{}), make(chan struct{})
	var calls atomic.Int32
	greedy := make([]Options, spareFunctions+2)
	for i := range greedy {
		app := "import os, time\ntime.sleep(.4)\nkeep = os.urandom(20 << 20)\nopen('/tmp/x', 'wb').write(keep)\ndef cape_handler(x): return x"
		greedy[i] = Options{Tree: tree(t, map[string]string{"app.py": app}), Work: "fn", Owner: "greedy", Hold: honest.Hold}
	}
	go func() {
		defer close(ended)
		for i := 0; ; i++ {
			select {
			case <-stop:
				return
			default:
			}
			p, err := h.Start(t.Context(), greedy[i%len(greedy)])
			if err != nil {
				t.Error(err)
				return
			}
			if _, err := invoke(t, p, "x"); err != nil {
				t.Error(err)
			}
			p.Close()
			calls.Add(1)
		}
	}()
	defer func() { close(stop); <-ended }()
	eventually(t, "every place is taken", func() bool { return calls.Load() > spareFunctions })
	key := keyOf(Options{Tree: honest.Tree, Work: honest.Work, Limits: withDefaults(honest.Limits)})
	for range 3 {
		if _, _, err := once(t, h, honest); err != nil {
			t.Fatal(err)
		}
		eventually(t, "a spare waits", func() bool {
			h.spares.mu.Lock()
			defer h.spares.mu.Unlock()
			p := h.spares.pools[key]
			return p != nil && len(p.ready) > 0
		})
	}
}

func TestSparesWanted(t *testing.T) {
	now := time.Now()
	for _, c := range []struct {
		name string
		pool pool
		want int
	}{
		{"never loaded", pool{last: now}, 0},
		{"light, called once", pool{last: now, loading: time.Millisecond}, 0},
		{"light, called now and then", pool{last: now, loading: time.Millisecond, interval: time.Minute}, 0},
		{"light, called often", pool{last: now, loading: time.Millisecond, interval: 100 * time.Millisecond}, 2},
		{"heavy, called once", pool{last: now, loading: time.Second}, 1},
		{"heavy, called now and then", pool{last: now, loading: time.Second, interval: time.Minute}, 2},
		{"heavy, called often", pool{last: now, loading: 2 * time.Second, interval: time.Second}, 3},
		{"heavy, called all the time", pool{last: now, loading: 2 * time.Second, interval: time.Millisecond}, sparePerOne},
		{"was called often", pool{last: now.Add(-time.Minute), loading: time.Millisecond, interval: time.Millisecond}, 0},
		{"heavy, long ago", pool{last: now.Add(-spareIdle - 1), loading: time.Second, interval: time.Millisecond}, 0},
	} {
		if got := c.pool.want(now); got != c.want {
			t.Errorf("%s: %d, want %d", c.name, got, c.want)
		}
	}
}

// TestSparesAreBounded: an owner's functions beyond the number have none until one has rested, or another owner has more.
func TestSparesAreBounded(t *testing.T) {
	s := &spares{pools: map[spareKey]*pool{}, wake: make(chan struct{}, 1)}
	var held atomic.Int32
	call := func(owner, name string) bool {
		o := Options{Owner: owner, Tree: name, Hold: func() func() { held.Add(1); return func() { held.Add(-1) } }}
		if s.take(o) != nil {
			t.Error("a spare from nowhere")
		}
		time.Sleep(time.Millisecond) // calls are one after the other
		return s.pools[keyOf(o)] != nil
	}
	has := func(owner string) (n int) {
		for _, p := range s.pools {
			if p.options.Owner == owner {
				n++
			}
		}
		return n
	}
	for i := range spareFunctions + 3 {
		if got := call("greedy", "g"+strconv.Itoa(i)); got != (i < spareFunctions) {
			t.Errorf("function %d: %v", i, got)
		}
	}
	for i := range spareFunctions {
		if got := call("other", "o"+strconv.Itoa(i)); got != (i < spareFunctions/2) {
			t.Errorf("the other owner's function %d: %v", i, got)
		}
	}
	if has("greedy") != 4 || has("other") != 4 || call("greedy", "g0") || !call("greedy", "g7") {
		t.Errorf("%d and %d; those called least lately are to go", has("greedy"), has("other"))
	}
	for i := range spareFunctions {
		call("owner"+strconv.Itoa(i), "x"+strconv.Itoa(i))
	}
	if len(s.pools) != spareFunctions || has("greedy")+has("other") > 4 {
		t.Errorf("%d functions, of whom the two owners still have %d", len(s.pools), has("greedy")+has("other"))
	}
	eventually(t, "who is forgotten is let go", func() bool { return held.Load() == spareFunctions })
	h := &Host{spares: s}
	if h.Yield() {
		t.Error("one that everybody uses was let go of")
	}
	if call("late", "l") {
		t.Error("everybody has one and uses it, but a newcomer took it")
	}
	for _, p := range s.pools {
		p.last = p.last.Add(-time.Minute)
	}
	if !call("late", "l") || len(s.pools) != spareFunctions {
		t.Errorf("%d functions, all rest, but a newcomer gets nothing", len(s.pools))
	}
	for range spareFunctions - 1 {
		if !h.Yield() {
			t.Error("nothing was let go of")
		}
	}
	if h.Yield() || has("late") != 1 {
		t.Error("one in use was let go of")
	}
	eventually(t, "they are let go of", func() bool { return held.Load() == 1 })
}
