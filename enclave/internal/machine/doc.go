// Package machine makes a virtual machine into the runtime's world, and is its PID 1.
//
// It trusts the kernel of the image and, for entropy, the security module; nothing that the
// hypervisor's host says has an effect. It refuses to start the runtime where entropy comes
// from anybody else, where a mount, the memory or the host's answer to the heartbeat is not as it
// must be. PID 1 itself only mounts, checks, reaps and waits: the runtime is its child, so
// whatever ends the runtime, a panic included, ends the machine. The two mains call Run.
package machine
