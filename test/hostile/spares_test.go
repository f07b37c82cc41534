package hostile

import (
	"fmt"
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
