package flow_test

import (
	"errors"
	"testing"

	"github.com/cape-functions/cape/core/flow"
	"github.com/cape-functions/cape/core/wire"
)

func TestCredit(t *testing.T) {
	send, receive := flow.NewSendCredit(), flow.NewReceiveCredit()
	if got := send.Take(wire.InitialCredit + 1); got != wire.InitialCredit {
		t.Errorf("took %d", got)
	}
	if got := send.Take(1); got != 0 {
		t.Errorf("took %d without credit", got)
	}
	if err := receive.Receive(wire.InitialCredit); err != nil {
		t.Error(err)
	}
	if err := receive.Receive(1); !errors.Is(err, flow.ErrFlow) {
		t.Errorf("payload without credit: %v", err)
	}
	if grant := receive.Use(wire.InitialCredit/2 - 1); grant != 0 {
		t.Errorf("granted %d early", grant)
	}
	grant := receive.Use(1)
	if grant != wire.InitialCredit/2 {
		t.Errorf("granted %d", grant)
	}
	if err := send.Grant(grant); err != nil {
		t.Error(err)
	}
	if got := send.Take(wire.InitialCredit); got != wire.InitialCredit/2 {
		t.Errorf("took %d", got)
	}
	if err := receive.Receive(wire.InitialCredit / 2); err != nil {
		t.Error(err)
	}
}

func TestGrantsAreBounded(t *testing.T) {
	for _, n := range []uint64{wire.MaxCredit, wire.MaxCredit + 1, 1 << 63, 1<<64 - 1} {
		c := flow.NewSendCredit()
		if err := c.Grant(n); !errors.Is(err, flow.ErrFlow) {
			t.Errorf("%d: %v", n, err)
		}
	}
	c := flow.NewSendCredit()
	if err := c.Grant(wire.MaxCredit - wire.InitialCredit); err != nil {
		t.Error(err)
	}
}

// A stream of any size passes between both ends, and nobody waits for ever.
func TestCreditFlows(t *testing.T) {
	send, receive := flow.NewSendCredit(), flow.NewReceiveCredit()
	for sent := 0; sent < 64<<20; {
		n := send.Take(wire.DataPayload)
		if n == 0 {
			t.Fatalf("stuck after %d bytes", sent)
		}
		sent += n
		if err := receive.Receive(n); err != nil {
			t.Fatal(err)
		}
		if grant := receive.Use(n); grant > 0 {
			if err := send.Grant(grant); err != nil {
				t.Fatal(err)
			}
		}
	}
}

type step struct {
	do func(*flow.Streams) error
	ok bool
}

func begin(id uint64) func(*flow.Streams) error {
	return func(s *flow.Streams) error { return s.Begin(id) }
}
func end(id uint64) func(*flow.Streams) error {
	return func(s *flow.Streams) error { return s.End(id) }
}
func data(id uint64) func(*flow.Streams) error {
	return func(s *flow.Streams) error { return s.Sending(id) }
}
func output(id uint64) func(*flow.Streams) error {
	return func(s *flow.Streams) error { return s.Answering(id) }
}
func answer(id uint64) func(*flow.Streams) error {
	return func(s *flow.Streams) error { return s.Answer(id) }
}

func TestStreams(t *testing.T) {
	for name, steps := range map[string][]step{
		"one input":            {{begin(1), true}, {data(1), true}, {end(1), true}, {output(1), true}, {answer(1), true}},
		"pipelined":            {{begin(1), true}, {end(1), true}, {begin(2), true}, {end(2), true}, {answer(1), true}, {output(2), true}, {answer(2), true}},
		"answered early":       {{begin(1), true}, {answer(1), true}, {data(1), true}, {begin(2), false}, {end(1), true}, {begin(2), true}},
		"id 0":                 {{begin(0), false}},
		"id skipped":           {{begin(2), false}},
		"id again":             {{begin(1), true}, {end(1), true}, {answer(1), true}, {begin(1), false}},
		"two at once":          {{begin(1), true}, {begin(2), false}},
		"data before begin":    {{data(1), false}},
		"data after end":       {{begin(1), true}, {end(1), true}, {data(1), false}},
		"data of another id":   {{begin(1), true}, {data(2), false}},
		"end before begin":     {{end(1), false}},
		"end twice":            {{begin(1), true}, {end(1), true}, {end(1), false}},
		"answer before begin":  {{answer(1), false}, {output(1), false}},
		"answer of the second": {{begin(1), true}, {end(1), true}, {begin(2), true}, {end(2), true}, {output(2), false}, {answer(2), false}},
		"answer twice":         {{begin(1), true}, {end(1), true}, {answer(1), true}, {answer(1), false}, {output(1), false}},
	} {
		var s flow.Streams
		for i, step := range steps {
			if err := step.do(&s); (err == nil) != step.ok || (err != nil && !errors.Is(err, flow.ErrFlow)) {
				t.Errorf("%s: step %d: %v", name, i, err)
			}
		}
	}
}

func TestStreamsAreFew(t *testing.T) {
	var s flow.Streams
	for id := uint64(1); id <= wire.MaxStreams; id++ {
		if !s.Room() {
			t.Fatalf("no room for %d", id)
		}
		if err := errors.Join(s.Begin(id), s.End(id)); err != nil {
			t.Fatal(err)
		}
	}
	if s.Room() || s.Open() != wire.MaxStreams {
		t.Errorf("%d open, room: %v", s.Open(), s.Room())
	}
	if err := s.Begin(wire.MaxStreams + 1); !errors.Is(err, flow.ErrFlow) {
		t.Errorf("one too many: %v", err)
	}
	if err := s.Answer(1); err != nil || !s.Room() {
		t.Errorf("after an answer: %v, room: %v", err, s.Room())
	}
	if err := s.Begin(wire.MaxStreams + 1); err != nil {
		t.Error(err)
	}
}
