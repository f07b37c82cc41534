package qemu

import (
	"os/exec"
	"path/filepath"
	"strconv"
)

// machine is QEMU's bare machine: no PCI, no ACPI, no network, no disk, the console on
// standard output, and QEMU itself shut into a seccomp filter.
func machine(accel string, memory, cpus int) []string {
	// Under TCG, AVX2 is there and slow: SHA-512 takes seven times as long with it.
	cpu, size := "max,-avx2", strconv.Itoa(memory)+"M"
	if accel == "kvm" {
		cpu = "host"
	}
	return []string{
		"-nodefaults", "-no-user-config", "-display", "none", "-no-reboot",
		"-sandbox", "on,obsolete=deny,elevateprivileges=deny,spawn=deny,resourcecontrol=deny",
		"-machine", "microvm,acpi=off,rtc=on,memory-backend=memory", "-accel", accel, "-cpu", cpu,
		"-object", "memory-backend-memfd,id=memory,share=on,size=" + size,
		"-m", size, "-smp", strconv.Itoa(cpus),
		"-global", "virtio-mmio.force-legacy=false",
		"-serial", "stdio",
	}
}

// added to the image's command line, as every hypervisor adds where its devices are: this machine has
// no keyboard controller, by which AWS's command line restarts.
const added = " reboot=t"

// command is what the enclave's processes are.
func (l *Launcher) command(e *enclave) (device, vm *exec.Cmd) {
	args := append(machine(e.accel, l.cfg.Memory, l.cfg.CPUs),
		"-kernel", e.boot.kernel, "-initrd", e.boot.ramdisk, "-append", e.boot.cmdline+added,
		"-object", "rng-random,id=random,filename=/dev/urandom", "-device", "virtio-rng-device,rng=random")
	cid := strconv.FormatUint(uint64(e.cid), 10)
	if l.tools.vsock == "" {
		args = append(args, "-device", "vhost-vsock-device,guest-cid="+cid)
		return nil, plain(l.tools.qemu, args)
	}
	control := filepath.Join(e.dir, "control")
	args = append(args, "-chardev", "socket,id=vsock,path="+escape(control), "-device", "vhost-user-vsock-device,chardev=vsock")
	device = plain(l.tools.vsock, []string{"--guest-cid", cid, "--socket", control, "--uds-path", e.uds()})
	return device, plain(l.tools.qemu, args)
}

// plain is a command with an empty environment.
func plain(path string, args []string) *exec.Cmd {
	cmd := exec.Command(path, args...)
	cmd.Env, cmd.Dir = []string{}, "/"
	return cmd
}

// escape writes a value of a QEMU option, in which commas end it.
func escape(s string) string {
	out := make([]byte, 0, len(s))
	for _, c := range []byte(s) {
		if out = append(out, c); c == ',' {
			out = append(out, c)
		}
	}
	return string(out)
}
