package hostile

import (
	"testing"
)

// files reads and writes what is not the function's.
func (a *arena) files(t *testing.T) {
	gone := []string{"ENOENT"}
	refused := []string{"EROFS", "EACCES", "EPERM", "ENOENT"}
	cases := []attack{
		{name: "files:hidden", why: "the runtime, other functions and devices are not in the jail's tree", want: []string{"nothing"}, layer: "read-only-root"},
		{name: "files:descriptors", why: "what is open is the function's own", want: []string{"nothing"}},
		{name: "files:environment", why: "the runtime's environment is not the function's", want: []string{"nothing"}},
		{name: "files:sticky", why: "who owns the socket's place could answer for the runtime", want: []string{"EROFS", "EACCES", "EPERM", "ENOENT"}},
		{name: "files:setuid", why: "a program must not become its owner", want: []string{"EPERM", "EACCES"}},
		{name: "files:links", why: "links lead no further than names do", want: refused, layer: "read-only-root"},
	}
	for _, path := range []string{"/proc/self/mem", "/proc/1/mem", "/proc/1/environ", "/proc/self/exe", "/proc/sysrq-trigger", "/proc/kcore", "/sys/kernel/notes",
		"/dev/nsm", "/dev/vsock", "/dev/mem", "/dev/kmsg", "/dev/kvm", "/dev/port", "/etc/shadow", "/root/.bashrc"} {
		cases = append(cases, attack{name: "files:read", args: map[string]string{"path": path}, why: "it is not in the jail's tree", want: gone, layer: "read-only-root"})
	}
	for _, path := range []string{"/hostile", "/etc/ld.so.preload", "/usr/lib/hostile.so", "/dev/hostile", "/usr/bin/python3", "../hostile"} {
		cases = append(cases, attack{name: "files:write", args: map[string]string{"path": path}, why: "only the function's folder, /tmp and /dev/shm can be written", want: refused})
	}
	for _, path := range []string{"/run/docker.sock", "/var/run/nscd/socket", "@/org/freedesktop/systemd1/notify", "@hostile"} {
		cases = append(cases, attack{name: "files:connect", args: map[string]string{"path": path}, why: "sockets of the machine are out of reach",
			want: []string{"ENOENT", "ECONNREFUSED", "EPERM", "EACCES"}})
	}
	for _, c := range cases {
		t.Run(c.name+c.args["path"], func(t *testing.T) { a.try(t, c) })
	}
}

// neighbours searches everything for a secret of a function that is at work meanwhile.
func (a *arena) neighbours(t *testing.T) {
	s, err := a.client.Connect(t.Context(), a.neighbour)
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	watched := *a
	watched.mark += "n"
	if _, err := s.Invoke(t.Context(), watched.order("files:environment", nil)); err != nil {
		t.Fatal(err)
	}
	backwards := []byte(canary)
	for i, j := 0, len(backwards)-1; i < j; i, j = i+1, j-1 {
		backwards[i], backwards[j] = backwards[j], backwards[i]
	}
	search := attack{name: "files:walk", args: map[string]string{"secret": string(backwards)}, why: "functions do not see each other", want: []string{"nothing"}, layer: "read-only-root"}
	a.try(t, search)
	// The search finds what is there.
	own, err := a.client.Run(t.Context(), a.neighbour, a.order(search.name, search.args))
	if got := outcome(own, err); got == "nothing" {
		t.Error("the neighbour does not find its own secret: the search is worthless")
	}
}
