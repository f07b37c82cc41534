package main

import (
	"errors"
	"fmt"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"

	"github.com/cape-functions/cape/host/internal/devserver"
	"github.com/cape-functions/cape/host/internal/launcher"
	"github.com/cape-functions/cape/host/internal/launcher/process"
	"github.com/cape-functions/cape/host/internal/launcher/qemu"
)

type newLauncher func(devserver.Parts) (launcher.Launcher, error)

// launcher chooses the kind of enclave that the flags name.
func (f *devFlags) launcher(log *slog.Logger) (newLauncher, error) {
	switch f.enclave {
	case "process":
		return f.processes(log)
	case "qemu":
		return f.machines(log)
	case "nitro":
		return nil, errors.New("--enclave nitro: development documents cannot come from Nitro; use process or qemu")
	}
	return nil, fmt.Errorf("--enclave %s: there is no such kind of enclave; use process or qemu", f.enclave)
}

func (f *devFlags) processes(log *slog.Logger) (newLauncher, error) {
	python, err := exec.LookPath(f.python)
	if err != nil {
		return nil, fmt.Errorf("no interpreter %q: install Python 3.9 or newer, or name one with --python", f.python)
	}
	if python, err = filepath.Abs(python); err != nil {
		return nil, err
	}
	runtime, err := runtimePath(f.runtime)
	if err != nil {
		return nil, err
	}
	return func(p devserver.Parts) (launcher.Launcher, error) {
		return process.New(process.Config{Runtime: runtime, Python: python, Dir: p.Dir, Authority: p.Authority, Revision: revision, Log: log})
	}, nil
}

func (f *devFlags) machines(log *slog.Logger) (newLauncher, error) {
	image, err := besideCaped(f.image, "cape-runtime-dev.eif")
	if err != nil {
		return nil, err
	}
	return func(p devserver.Parts) (launcher.Launcher, error) {
		return qemu.New(qemu.Config{Image: image, Tools: toolsDir(), Dir: p.Dir, Authority: p.Authority, Revision: revision,
			Memory: f.memory, CPUs: f.cpus, Log: log})
	}, nil
}

// besideCaped is the file that was named, or name in caped's own folder.
func besideCaped(named, name string) (string, error) {
	if named != "" {
		return filepath.Abs(named)
	}
	self, err := os.Executable()
	if err != nil {
		return "", fmt.Errorf("finding %s: %w", name, err)
	}
	return filepath.Join(filepath.Dir(self), name), nil
}

// toolsDir is where make vm-tools puts programs.
func toolsDir() string {
	if dir := os.Getenv("CAPE_TOOLS"); dir != "" {
		return filepath.Join(dir, "bin")
	}
	cache, err := os.UserCacheDir()
	if err != nil {
		return ""
	}
	return filepath.Join(cache, "cape-tools", "bin")
}
