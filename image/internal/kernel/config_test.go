package kernel

import (
	"errors"
	"os"
	"path/filepath"
	"testing"
)

// TestLostOptions: an option that came out otherwise fails the build, whichever way it went.
func TestLostOptions(t *testing.T) {
	const resolved = "# Linux\nCONFIG_NSM=y\n# CONFIG_MODULES is not set\nCONFIG_LSM=\"landlock,yama\"\nCONFIG_NR_CPUS=128\n"
	for asked, ok := range map[string]bool{
		"CONFIG_NSM=y\n":                          true,
		"# CONFIG_MODULES is not set\n":           true,
		"# CONFIG_NOT_THERE is not set\n":         true,
		"CONFIG_LSM=\"landlock,yama\"\n":          true,
		"CONFIG_MODULES=y\n":                      false,
		"# CONFIG_NSM is not set\n":               false,
		"CONFIG_NOT_THERE=y\n":                    false,
		"CONFIG_NSM=m\n":                          false,
		"CONFIG_LSM=\"yama\"\n":                   false,
		"CONFIG_NSM=y\n# CONFIG_NSM is not set\n": false,
		"CONFIG_NSM\n":                            false,
		"# only a remark\n":                       false,
		"":                                        false,
	} {
		if err := checkConfig(asked, resolved); ok != (err == nil) || err != nil && !errors.Is(err, ErrConfig) {
			t.Errorf("%q: %v", asked, err)
		}
	}
	if err := checkConfig("CONFIG_NSM=y\n", ""); !errors.Is(err, ErrConfig) {
		t.Errorf("an empty result: %v", err)
	}
}

// TestFragment: what the enclave cannot run without, and what hostile functions must not have, stand in the committed
// fragment; the build compares the fragment with what came out of it.
func TestFragment(t *testing.T) {
	text, err := os.ReadFile(filepath.Join("..", "..", "kernel.config"))
	if err != nil {
		t.Fatal(err)
	}
	options, err := parseConfig(string(text))
	if err != nil {
		t.Fatal(err)
	}
	for value, names := range map[string][]string{
		"y": {"VIRTIO_MMIO", "VIRTIO_MMIO_CMDLINE_DEVICES", "VIRTIO_VSOCKETS", "NSM", "HW_RANDOM", "HW_RANDOM_VIRTIO", "KVM_GUEST", "PARAVIRT_CLOCK",
			"PTP_1588_CLOCK_KVM", "SERIAL_8250_CONSOLE", "BLK_DEV_INITRD", "DEVTMPFS", "TMPFS", "UTS_NS", "TIME_NS", "IPC_NS", "USER_NS", "PID_NS", "NET_NS",
			"SECCOMP_FILTER", "SECURITY_LANDLOCK", "SECURITY_YAMA", "OVERLAY_FS", "MEMCG", "CGROUP_PIDS", "CFS_BANDWIDTH", "RANDOMIZE_BASE", "HARDENED_USERCOPY",
			"STACKPROTECTOR_STRONG", "STRICT_KERNEL_RWX"},
		"n": {"VIRTIO_PCI", "PVH", "MODULES", "IO_URING", "BPF_SYSCALL", "USERFAULTFD", "KEXEC", "KEXEC_FILE", "CROSS_MEMORY_ATTACH", "CHECKPOINT_RESTORE", "KEYS",
			"DEVMEM", "IA32_EMULATION", "CRYPTO_USER_API_HASH", "CRYPTO_USER_API_SKCIPHER", "PACKET"},
	} {
		for _, name := range names {
			if options["CONFIG_"+name] != value {
				t.Errorf("CONFIG_%s is %q, not %s", name, options["CONFIG_"+name], value)
			}
		}
	}
}

// TestKey: every input decides what counts as the same kernel.
func TestKey(t *testing.T) {
	b := Build{Fragment: "x"}
	b.Source.SHA256 = "1"
	seen := map[string]bool{b.key(): true}
	for name, change := range map[string]func(*Build){
		"fragment": func(b *Build) { b.Fragment = "y" },
		"source":   func(b *Build) { b.Source.SHA256 = "2" },
		"compiler": func(b *Build) { b.Toolchain = append(b.Toolchain, b.Source) },
	} {
		other := b
		change(&other)
		if seen[other.key()] {
			t.Errorf("another %s, the same key", name)
		}
		seen[other.key()] = true
	}
}
