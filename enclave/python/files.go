package python

import (
	"embed"
	"fmt"
	"os"
	"path/filepath"
)

//go:embed worker.py check.py
var files embed.FS

// Names of the programs, as Write leaves them in its directory.
const (
	Worker = "worker.py"
	Check  = "check.py"
)

// Write puts the programs into dir, which must exist. Everybody may read them:
// they hold nothing secret, and jails run under users of their own.
func Write(dir string) error {
	for _, name := range []string{Worker, Check} {
		data, err := files.ReadFile(name)
		if err != nil {
			return fmt.Errorf("reading embedded %s: %w", name, err)
		}
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, data, 0o444); err != nil {
			return fmt.Errorf("writing %s: %w", name, err)
		}
		if err := os.Chmod(path, 0o444); err != nil {
			return fmt.Errorf("writing %s: %w", name, err)
		}
	}
	return nil
}
