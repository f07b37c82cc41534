package python

import (
	"embed"
	"fmt"
	"os"
	"path/filepath"
)

//go:embed server.py jail.py kernel.py worker.py check.py
var files embed.FS

// Question makes an interpreter say what package handler must know of it; an image has what its own said, in the
// file Answer beside the worker's.
//
//go:embed question.py
var Question string

// Answer: see Question.
const Answer = "answer"

// Server is the program among the files; the others are its modules.
const Server = "server.py"

// Write puts the files into dir, which must exist. Everybody may read them:
// they hold nothing secret, and jails run under users of their own.
func Write(dir string) error {
	entries, err := files.ReadDir(".")
	if err != nil {
		return fmt.Errorf("reading embedded files: %w", err)
	}
	for _, e := range entries {
		data, err := files.ReadFile(e.Name())
		if err != nil {
			return fmt.Errorf("reading embedded %s: %w", e.Name(), err)
		}
		path := filepath.Join(dir, e.Name())
		if err := os.WriteFile(path, data, 0o444); err != nil {
			return fmt.Errorf("writing %s: %w", e.Name(), err)
		}
		if err := os.Chmod(path, 0o444); err != nil {
			return fmt.Errorf("writing %s: %w", e.Name(), err)
		}
	}
	return nil
}
