package hostile

import (
	"os"
	"strconv"
	"testing"
	"time"
)

// resources uses up what everybody needs.
func (a *arena) resources(t *testing.T) {
	full, files, memory := []string{"ENOSPC", "EFBIG", noMemory}, []string{"ENOSPC"}, []string{noMemory, failed}
	if a.machine { // an emulated one on a busy host does not get so far in the time of one call
		files, memory = append(files, timedOut), append(memory, timedOut)
	}
	for _, c := range []attack{
		{name: "resources:memory", why: "memory is bounded", want: memory, layer: "memory-cgroup"},
		{name: "resources:memory-shared", why: "memory behind a file counts as well", want: append(full, "ENOMEM", failed), layer: "memory-cgroup"},
		{name: "resources:fork", why: "processes are bounded", want: []string{"EAGAIN"}},
		{name: "resources:threads", why: "threads are bounded", want: []string{"refused"}},
		{name: "resources:descriptors", why: "open files are bounded", want: []string{"EMFILE", "ENFILE"}},
		{name: "resources:disk", args: map[string]string{"folder": "."}, why: "space is bounded", want: full, layer: "read-only-root"},
		{name: "resources:disk", args: map[string]string{"folder": "/tmp"}, why: "space is bounded", want: full, layer: "read-only-root"},
		{name: "resources:disk", args: map[string]string{"folder": "/dev/shm"}, why: "space is bounded", want: full, layer: "read-only-root"},
		{name: "resources:files", why: "so is the number of files", want: files, layer: "read-only-root"},
		{name: "resources:sparse", why: "a file may not be longer than what may be kept", want: []string{"EFBIG", "ENOSPC", failed}},
		{name: "resources:locked", why: "locked memory is bounded", want: []string{"ENOMEM", "EPERM", "EAGAIN"}},
		{name: "resources:timers", why: "pending signals are counted for all jails together", want: []string{"EAGAIN"}},
		{name: "resources:sent", why: "descriptors on their way are counted by user", want: []string{"ETOOMANYREFS", "EMFILE"}},
		{name: "resources:flood", why: "what is printed is bounded, and holds up nobody", want: []string{"nothing"}},
		{name: "rpc:many", why: "what a request holds beside its parameter is not kept", want: []string{"malformed"}},
		{name: "rpc:endless", why: "a request is bounded", want: []string{"malformed", "refused"}},
		{name: "resources:output", args: map[string]string{"size": strconv.Itoa(1<<30 + 1)}, why: "a result is bounded", want: []string{tooLarge, noMemory, failed}},
	} {
		t.Run(c.name+c.args["folder"], func(t *testing.T) { a.try(t, c) })
	}
}

// timeOfOneCall waits for the end of the time that one call may take.
func (a *arena) timeOfOneCall(t *testing.T) {
	if os.Getenv("CAPE_TEST_FULL") == "" {
		t.Skip("takes a minute; CAPE_TEST_FULL=1 runs it")
	}
	began := time.Now()
	a.try(t, attack{name: "resources:spin", why: "time is bounded", want: []string{timedOut}})
	if d := time.Since(began); d < 30*time.Second {
		t.Errorf("ended after %s", d)
	}
}
