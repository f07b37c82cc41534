package assembly

import (
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// TestCacheOfOthers: what lies in the cache is compared, and used later.
func TestCacheOfOthers(t *testing.T) {
	for _, shared := range []string{"", "packages", "kernels"} {
		o := Options{Root: "../../..", Cache: t.TempDir()}
		w, err := open(o)
		if err != nil {
			t.Fatal(err)
		}
		if err := w.close(); err != nil {
			t.Error(err)
		}
		if err := os.Chmod(filepath.Join(o.Cache, shared), 0o777); err != nil {
			t.Fatal(err)
		}
		if _, err := open(o); !errors.Is(err, ErrCache) {
			t.Errorf("%q is writable for everybody: %v", shared, err)
		}
	}
}

// TestCommandLine: what must stand in it, and what would hand the machine's root to the host.
func TestCommandLine(t *testing.T) {
	w, err := open(Options{Root: "../../..", Cache: t.TempDir()})
	if err != nil {
		t.Fatal(err)
	}
	defer w.close()
	words := strings.Fields(w.cmdline)
	for _, must := range []string{"reboot=k", "panic=30", "pci=off", "console=ttyS0", "random.trust_cpu=off", "random.trust_bootloader=off",
		"sysctl.kernel.yama.ptrace_scope=3"} {
		if !slices.Contains(words, must) {
			t.Errorf("%s is missing in %q", must, w.cmdline)
		}
	}
	for _, word := range words {
		if name, _, _ := strings.Cut(word, "="); slices.Contains([]string{"initrd", "root", "init", "rdinit", "nokaslr", "mitigations", "cape.development"}, name) {
			t.Errorf("%s stands in %q", word, w.cmdline)
		}
	}
}
