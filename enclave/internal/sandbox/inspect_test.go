package sandbox

import (
	"errors"
	"slices"
	"testing"

	"github.com/cape-functions/cape/enclave/internal/sandbox/testkit"
)

// TestSandboxSeesLies: a worker that says it is ready, but left out a layer, never gets a function.
func TestSandboxSeesLies(t *testing.T) {
	const file, server = "jail.py", "server.py"
	flags := "flags = 0 if setup[\"plain\"] else kernel.NAMESPACES"
	without := func(flag string) change { return change{server, flags, flags + " & ~" + flag} }
	for name, changes := range map[string][]change{
		"no filter":           {{file, `setup["filter"].install()`, "pass"}},
		"own user":            {{file, "os.setresuid(uid, uid, uid)", "pass"}},
		"own group":           {{file, "os.setresgid(uid, uid, uid)", "pass"}},
		"capabilities":        {{file, "os.setresuid(uid, uid, uid)", "kernel.prctl(28, 1 << 2 | 1 << 3); os.setresuid(uid, uid, uid)"}, {file, "os.setresuid(uid, uid, uid)\n    kernel.set_capabilities(0)\n", "os.setresuid(uid, uid, uid)\n"}, {file, "kernel.drop_bounding()", "pass"}},
		"bounding set":        {{file, "kernel.drop_bounding()", "pass"}},
		"one more descriptor": {{file, "kernel.close_from(5)", "kernel.close_from(6)"}, {file, "high = [", "os.dup2(fds[0], 5); high = ["}},
		"another descriptor":  {{file, "(null, high[2], high[3], high[0], high[1])", "(null, high[2], high[2], high[0], high[1])"}},
		"standard input":      {{file, `os.open("/dev/null", os.O_RDONLY)`, `os.open("/dev/zero", os.O_RDONLY)`}},
		"a thread":            {{file, `channel.send(b"r")`, `__import__("_thread").start_new_thread(channel.receive, ()); channel.send(b"r")`}},
		"network":             {without("0x40000000")},
		"ipc":                 {without("0x08000000")},
		"host name":           {without("0x04000000"), {file, `socket.sethostname("cape")`, "pass"}},
		"cgroup namespace":    {{file, "kernel.unshare(kernel.CLONE_NEWCGROUP)", "pass"}},
		"cgroup":              {{file, `os.write(fd, b"0")`, "pass"}},
		"writable root":       {{file, `self.show(path_of("."), root, scratch)`, "kernel.bind(root, root)"}},
		"writable programs":   {{file, "self.show(path, path[1:], scratch)", "kernel.bind(path, path[1:])"}},
		"shared programs":     {{file, `kernel.mount("cape", target, "overlay", read_only, f"lowerdir={source}:{scratch}/void,userxattr")`, "kernel.bind(path, target); kernel.mount_attr(target, read_only)"}},
		"shared devices":      {{file, `self.order["devices"] or "/dev"`, `"/dev"`}},
		"old root":            {{file, `kernel.detach(".")`, "pass"}},
		"all functions":       {{file, `kernel.detach("/" + TREES)`, "pass"}},
		"writable folder":     {{file, `kernel.mount_attr("/function", kernel.MOUNT_RDONLY, recursive=False)`, "pass"}},
		"lets others look":    {{file, "kernel.prctl(kernel.PR_SET_DUMPABLE, 0)\n                channel", "channel"}},
	} {
		t.Run(name, func(t *testing.T) {
			cfg := config(t, t.TempDir(), changes...)
			s, err := New(cfg)
			if err == nil {
				defer closed(t, s)
			}
			refused := errors.Is(err, errDiffers)
			if err == nil && s.plain { // the first kind of jail was refused, so there is a second
				refused = true
			}
			if testkit.Current() == testkit.Bare {
				refused = err != nil // there is nothing to fall back on
			}
			if refused != expected(testkit.Current(), name) {
				t.Errorf("New = %v", err)
			}
		})
	}
}

// expected tells which lies can be told at all. A user that changed is undumpable anyway; one that has no other
// cannot keep a wrong one; and without namespaces many are not promised.
func expected(w testkit.World, name string) bool {
	switch w {
	case testkit.Here:
		return name != "lets others look"
	case testkit.Bare:
		return slices.Contains([]string{"no filter", "one more descriptor", "another descriptor", "standard input", "a thread", "lets others look", "capabilities"}, name)
	}
	if w == testkit.Nested && name == "lets others look" {
		return false // its one user is root
	}
	return !slices.Contains([]string{"own user", "own group", "shared devices"}, name) && (w != testkit.Ordinary || name != "cgroup")
}
