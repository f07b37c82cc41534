package hostile

import (
	"context"
	"errors"
	"testing"
	"time"
)

// processes attacks other processes and the worker that serves the function.
func (a *arena) processes(t *testing.T) {
	for _, c := range []attack{
		{name: "processes:kill-keeper", why: "the jail's first process is another user's", want: []string{"EPERM", "ESRCH"}, layer: "pid-namespace"},
		{name: "processes:kill-all", why: "only its own processes hear it", want: []string{failed, "escaped", "ESRCH", "EPERM"}},
		{name: "processes:kill-others", why: "no process but its own can be reached", want: []string{"nothing"}, layer: "pid-namespace"},
		{name: "processes:sees", why: "process numbers are the jail's own", want: []string{"nothing"}, layer: "pid-namespace"},
		{name: "processes:limits", why: "limits go down only", want: []string{"EPERM", failed}},
		{name: "processes:segfault", why: "it harms itself alone", want: []string{failed}},
		{name: "processes:exit", why: "it harms itself alone", want: []string{failed}},
		{name: "processes:exit-hard", why: "it harms itself alone", want: []string{failed}},
		{name: "processes:close", why: "without its pipes it is of no use", want: []string{failed}},
		{name: "processes:garbage", why: "what is no frame ends it", want: []string{failed}},
		{name: "processes:length", why: "no announced length is believed", want: []string{failed}},
		{name: "processes:fake", why: "it may answer for itself, once", want: []string{"first", failed}},
		{name: "processes:pieces", why: "every piece costs the runtime time", want: []string{failed}},
		{name: "processes:empty-pieces", why: "every piece costs the runtime time", want: []string{failed}},
		{name: "processes:steal", why: "only its own input ever comes", want: []string{"nothing"}},
		{name: "processes:daemon", why: "nothing outlives the connection", want: []string{"left"}},
		{name: "processes:recursion", why: "it harms itself alone", want: []string{failed, noMemory}},
	} {
		t.Run(c.name, func(t *testing.T) { a.try(t, c) })
	}
}

// fakeAnswers: a worker that answers twice does not answer the next input of its
// connection, nor anybody else's.
func (a *arena) fakeAnswers(t *testing.T) {
	s, err := a.client.Connect(t.Context(), a.attacker)
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	first := outcome(s.Invoke(t.Context(), a.order("processes:fake", nil)))
	second := outcome(s.Invoke(t.Context(), a.order("files:environment", nil)))
	t.Logf("first %q, second %q", first, second)
	// A function's answers are its own affair: what must not happen is that they reach others.
	a.checkHonest(t)
}

// hangs: a caller who gives up ends what it started, whatever that is doing.
func (a *arena) hangs(t *testing.T) {
	for _, name := range []string{"resources:hang", "resources:spin", "processes:stop", "processes:handlers"} {
		t.Run(name, func(t *testing.T) {
			ctx, cancel := context.WithTimeout(t.Context(), 2*time.Second)
			defer cancel()
			if _, err := a.client.Run(ctx, a.attacker, a.order(name, nil)); !errors.Is(err, context.DeadlineExceeded) {
				t.Errorf("got %v", err)
			}
			a.checkHonest(t)
			a.checkMark(t)
		})
	}
}
