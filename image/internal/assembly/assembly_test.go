package assembly

import (
	"errors"
	"os"
	"path/filepath"
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
