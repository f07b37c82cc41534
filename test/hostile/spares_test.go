package hostile

import (
	"context"
	"fmt"
	"os"
	"sync"
	"testing"
	"time"

	"github.com/cape-functions/cape/client"
)

// waiting calls a function that goes on with its own affairs once it is imported. A process of it that waited for its
// call must have done nothing meanwhile.
func (a *arena) waiting(t *testing.T) {
	if a.missing["freezer-cgroup"] {
		t.Log("left out: this machine has no freezer-cgroup")
		return
	}
	f := client.Function{Name: a.Deploy("functions/restless")}
	const rest = 3 * time.Second
	for waited, deadline := 0, time.Now().Add(2*time.Minute); waited < 2; {
		if time.Now().After(deadline) {
			t.Fatal("no process waits for its call")
		}
		var age, used float64 // seconds
		got := outcome(a.client.Run(t.Context(), f, nil))
		if _, err := fmt.Sscan(got, &age, &used); err != nil {
			t.Fatalf("%q: %v", got, err)
		}
		if age > rest.Seconds() {
			waited++
			if used > age/2 {
				t.Errorf("%.1f s old, it was awake for %.1f s", age, used)
			}
		}
		time.Sleep(rest + 2*time.Second)
	}
}

// atOnce runs attacks on everything that is shared side by side for a while: an honest function works all the time.
func (a *arena) atOnce(t *testing.T) {
	if os.Getenv("CAPE_TEST_FULL") == "" || a.machine {
		t.Skip("takes a minute and all of the machine; CAPE_TEST_FULL=1 runs it")
	}
	restless := client.Function{Name: a.Deploy("functions/restless", "--name", "restless-too")}
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	var all sync.WaitGroup
	for _, name := range []string{"memory", "memory-shared", "fork", "threads", "files", "disk", "sent", "timers", "flood", "spin"} {
		all.Go(func() {
			for ctx.Err() == nil {
				_, _ = a.client.Run(ctx, a.attacker, a.order("resources:"+name, map[string]string{"folder": "/tmp"})) // whatever comes of it
				_, _ = a.client.Run(ctx, restless, nil)
			}
		})
	}
	runs := 0
	for ; ctx.Err() == nil; runs++ {
		a.checkHonest(t)
	}
	all.Wait()
	t.Logf("%d honest runs meanwhile", runs)
	if runs < 3 {
		t.Errorf("in all that time there were %d honest runs", runs)
	}
	a.checkMark(t)
}
