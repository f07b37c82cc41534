package hostile

import (
	"testing"

	"github.com/cape-functions/cape/client"
)

// nothingCarriesOver leaves something by every channel and looks for it from other
// connections, while the first is open and after it.
func (a *arena) nothingCarriesOver(t *testing.T) {
	for _, channel := range []string{"folder", "tmp", "shm", "above", "root", "source", "memory", "abstract-socket", "named-socket", "shared-memory", "queue",
		"flock-own", "flock-system", "flock-device", "flock-folder", "record-lock-own", "record-lock-system", "open-file-lock-system", "lease-system", "attribute",
		"watch-own", "watch-system", "watch-folder", "watch-device"} {
		t.Run(channel, func(t *testing.T) { a.carry(t, channel) })
	}
}

// needs names the layer that closes a channel, where a machine may lack it.
var needs = map[string]string{"flock-device": "own-device-nodes", "watch-device": "own-device-nodes", "flock-system": "own-locks-and-watches",
	"flock-folder": "own-locks-and-watches", "record-lock-system": "own-locks-and-watches", "open-file-lock-system": "own-locks-and-watches",
	"watch-system": "own-locks-and-watches", "watch-folder": "own-locks-and-watches"}

func (a *arena) carry(t *testing.T, channel string) {
	if layer := needs[channel]; a.missing[layer] {
		t.Logf("left out: this machine has no %s", layer)
		return
	}
	s, err := a.client.Connect(t.Context(), a.attacker)
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	left := outcome(s.Invoke(t.Context(), a.order("carry:leave/"+channel, nil)))
	t.Logf("leaving: %s", left)
	find := func(when string, f client.Function) {
		if got := outcome(a.client.Run(t.Context(), f, a.order("carry:find/"+channel, nil))); got != "nothing" && got != failed {
			t.Errorf("%s: %s", when, got)
		}
	}
	find("another connection of the function", a.attacker)
	find("another function", a.neighbour)
	if left != failed {
		if got := outcome(s.Invoke(t.Context(), a.order("carry:heard/"+channel, nil))); got != "nothing" {
			t.Errorf("the first connection heard of the others: %s", got)
		}
	}
	s.Close()
	find("a later connection of the function", a.attacker)
	find("a later connection of another function", a.neighbour)
	a.checkHonest(t)
}
