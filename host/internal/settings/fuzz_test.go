package settings_test

import (
	"errors"
	"os"
	"path/filepath"
	"testing"

	"github.com/cape-functions/cape/host/internal/settings"
)

func FuzzReadFile(f *testing.F) {
	for _, seed := range []string{goodServe, goodWorker, "listen = :1\x00\n", "=\n", "# x", "verbose = 1\nverbose = 0\n"} {
		f.Add(seed)
	}
	path := filepath.Join(f.TempDir(), "conf")
	f.Fuzz(func(t *testing.T, text string) {
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		var s settings.Serve
		err := settings.ReadFile(flags(s.Register), path)
		if err != nil && !errors.Is(err, settings.ErrSettings) {
			t.Fatal(err)
		}
		if err := s.Validate(); err != nil && !errors.Is(err, settings.ErrSettings) {
			t.Fatal(err)
		}
	})
}
