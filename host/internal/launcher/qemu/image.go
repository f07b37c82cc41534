package qemu

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"

	"github.com/cape-functions/cape/core/wire"
	"github.com/cape-functions/cape/host/internal/launcher"
	"github.com/cape-functions/cape/image/eif"
)

// ErrImage: the image is none that QEMU can boot here.
var ErrImage = errors.New("not an image for QEMU")

// boot is an image taken apart: what QEMU loads is what was measured.
type boot struct {
	kernel, ramdisk, cmdline string
	measurements             eif.Measurements
}

// unpack writes the parts of the image at path into dir, and measures them meanwhile.
func unpack(ctx context.Context, path, dir string) (b *boot, err error) {
	image, err := os.Open(path)
	if err != nil {
		return nil, fmt.Errorf("opening the image: %w; make image builds one", err)
	}
	defer image.Close()
	b = &boot{kernel: filepath.Join(dir, "kernel"), ramdisk: filepath.Join(dir, "ramdisk")}
	kernel, err := os.OpenFile(b.kernel, os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o600)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, kernel.Close()) }()
	ramdisk, err := os.OpenFile(b.ramdisk, os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o600)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, ramdisk.Close()) }()
	i, err := eif.Read(ctx, image, func(s eif.Section) (io.Writer, error) {
		switch s.Kind {
		case eif.Kernel:
			return kernel, nil
		case eif.Ramdisk:
			return ramdisk, nil
		}
		return nil, nil
	})
	if err != nil {
		return nil, fmt.Errorf("reading %s: %w", path, err)
	}
	switch {
	case i.ARM64:
		return nil, fmt.Errorf("%w: %s is for aarch64", ErrImage, path)
	case !i.Development():
		return nil, fmt.Errorf("%w: %s is for production, and runs on AWS Nitro alone; make image builds cape-runtime-dev.eif beside it", ErrImage, path)
	}
	b.cmdline, b.measurements = i.Cmdline, i.Measurements
	return b, nil
}

// releaseOf reads what stands beside an image of what it holds.
func releaseOf(image string, m map[string]string, revision string) (wire.Release, error) {
	said, err := launcher.ReadRelease(strings.TrimSuffix(image, ".eif") + ".release.json")
	switch {
	case errors.Is(err, os.ErrNotExist):
		return wire.Release{Measurements: m, Revision: revision}, nil
	case err != nil:
		return wire.Release{}, err
	}
	for _, pcr := range []string{"PCR0", "PCR1", "PCR2"} {
		if said.Measurements[pcr] != m[pcr] {
			return wire.Release{}, fmt.Errorf("%w: its release file says another %s: run make image again", ErrImage, pcr)
		}
	}
	said.Measurements = m
	return *said, nil
}
