package platform

import (
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
)

// InMachine returns the flags for a platform in a virtual machine, or skips, saying what is missing. root is the way
// to the module's root, where make image leaves the images.
func InMachine(t *testing.T, root string) []string {
	t.Helper()
	if os.Getenv("CAPE_TEST_FULL") == "" {
		t.Skip("part of the full test suite: CAPE_TEST_FULL=1")
	}
	image, err := filepath.Abs(filepath.Join(root, "bin", "cape-runtime-dev.eif"))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(image); errors.Is(err, os.ErrNotExist) {
		t.Skip("no virtual machine is tried: bin/cape-runtime-dev.eif is missing, make image builds it")
	}
	cache, err := os.UserCacheDir()
	if err != nil {
		t.Fatal(err)
	}
	for _, tool := range []string{"qemu-system-x86_64", "vhost-device-vsock"} {
		_, err := exec.LookPath(tool)
		if _, other := os.Stat(filepath.Join(cache, "cape-tools", "bin", tool)); err != nil && other != nil {
			t.Skipf("no virtual machine is tried: %s is missing, make vm-tools installs it", tool)
		}
	}
	return []string{"--enclave", "qemu", "--image", image}
}

// InMachines says whether tests that can do with either are to have virtual machines in the place of processes.
func InMachines() bool { return os.Getenv("CAPE_TEST_MACHINE") != "" }
