package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"strings"

	"github.com/cape-functions/cape/core/wire"
	"github.com/cape-functions/cape/host/internal/devcloud"
	"github.com/cape-functions/cape/host/internal/launcher"
	"github.com/cape-functions/cape/host/internal/launcher/hub"
	"github.com/cape-functions/cape/host/internal/launcher/nitro"
	"github.com/cape-functions/cape/host/internal/launcher/process"
	"github.com/cape-functions/cape/host/internal/launcher/qemu"
	"github.com/cape-functions/cape/host/internal/settings"
)

// backend makes what starts the enclaves of a worker.
func backend(w settings.Worker, log *slog.Logger) func(context.Context, *devcloud.Cloud) (launcher.Launcher, func() error, error) {
	return func(ctx context.Context, cloud *devcloud.Cloud) (launcher.Launcher, func() error, error) {
		switch w.Enclave.Kind {
		case "nitro":
			return nitroBackend(ctx, w, log)
		case "process":
			return processBackend(w, cloud, log)
		case "qemu":
			return qemuBackend(w, cloud, log)
		}
		return nil, nil, fmt.Errorf("--enclave %s: there is no such kind of enclave", w.Enclave.Kind)
	}
}

// nitroBackend also ends what a worker of this name that was killed left running.
func nitroBackend(ctx context.Context, w settings.Worker, log *slog.Logger) (launcher.Launcher, func() error, error) {
	release := wire.Release{Revision: revision}
	if w.Enclave.Release != "" {
		r, err := launcher.ReadRelease(w.Enclave.Release)
		if err != nil {
			return nil, nil, err
		}
		release = *r
	}
	h := hub.New(hub.Config{Log: log})
	l, err := nitro.New(ctx, nitro.Config{
		CLI: w.Enclave.NitroCLI, Image: w.Enclave.Image, Release: release, CPUs: w.Enclave.CPUs, Memory: w.Enclave.Memory,
		Name: "cape-" + strings.ReplaceAll(w.Name, ".", "-") + "-worker", Hub: h, Log: log,
	})
	if err != nil {
		return nil, nil, errors.Join(err, h.Close())
	}
	n, err := l.Sweep(ctx)
	if err != nil {
		return nil, nil, errors.Join(err, h.Close())
	}
	if n > 0 {
		log.Warn("ended enclaves that an earlier worker had left", "enclaves", n)
	}
	return l, h.Close, nil
}

func processBackend(w settings.Worker, cloud *devcloud.Cloud, log *slog.Logger) (launcher.Launcher, func() error, error) {
	python, err := exec.LookPath(w.Development.Python)
	if err == nil {
		python, err = filepath.Abs(python)
	}
	if err != nil {
		return nil, nil, fmt.Errorf("no interpreter %q: name Python 3.9 or newer with --python", w.Development.Python)
	}
	runtime, err := runtimePath(w.Development.Runtime)
	if err != nil {
		return nil, nil, err
	}
	dir, err := socketDir(w)
	if err != nil {
		return nil, nil, err
	}
	l, err := process.New(process.Config{Runtime: runtime, Python: python, Dir: dir, Authority: cloud.Authority(), Revision: revision, Log: log})
	if err != nil {
		return nil, nil, errors.Join(err, os.RemoveAll(dir))
	}
	return l, func() error { return os.RemoveAll(dir) }, nil
}

func qemuBackend(w settings.Worker, cloud *devcloud.Cloud, log *slog.Logger) (launcher.Launcher, func() error, error) {
	dir, err := socketDir(w)
	if err != nil {
		return nil, nil, err
	}
	l, err := qemu.New(qemu.Config{Image: w.Enclave.Image, Tools: toolsDir(), Dir: dir, Authority: cloud.Authority(), Revision: revision,
		Memory: w.Enclave.Memory, CPUs: w.Enclave.CPUs, Log: log})
	if err != nil {
		return nil, nil, errors.Join(err, os.RemoveAll(dir))
	}
	return l, func() error { return errors.Join(l.Close(), os.RemoveAll(dir)) }, nil
}

// socketDir makes a directory for the sockets of enclaves.
func socketDir(w settings.Worker) (string, error) {
	dir, err := os.MkdirTemp(w.Enclave.RunDir, "e-")
	if err != nil {
		return "", fmt.Errorf("making a directory for sockets: %w; name another with --run-dir", err)
	}
	return dir, nil
}
