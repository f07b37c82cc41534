package main

import (
	"crypto/rand"
	"crypto/sha512"
	"errors"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"

	"github.com/cape-functions/cape/image/eif"
)

// Sizes of the parts of an image like ours, in bytes.
const (
	kernelSize = 3 << 20
	baseSize   = 70 << 20
	oursSize   = 12 << 20
)

// image: building one against AWS's own library, measuring one against hashing its bytes.
func (b *bench) image() error {
	const cmdline = "reboot=k panic=30 pci=off console=ttyS0"
	dir, err := os.MkdirTemp(b.tmp, "image")
	if err != nil {
		return err
	}
	var files []string
	for _, size := range []int64{kernelSize, baseSize, oursSize} {
		f, err := os.CreateTemp(dir, "part")
		if err == nil {
			_, err = io.CopyN(f, rand.Reader, size)
		}
		if err = errors.Join(err, f.Close()); err != nil {
			return err
		}
		files = append(files, f.Name())
	}
	image, theirs := filepath.Join(dir, "ours.eif"), filepath.Join(dir, "theirs.eif")
	build := func() error {
		return exec.CommandContext(b.ctx, filepath.Join(b.bin, "cape"), "eif", "build", "--kernel", files[0], "--cmdline", cmdline,
			"--ramdisk", files[1], "--ramdisk", files[2], image).Run()
	}
	if peer, note := eifPeer(b); peer != "" {
		x, y, err := paired(9, build, func() error {
			return exec.CommandContext(b.ctx, peer, "build", theirs, files[0], cmdline, files[1], files[2]).Run()
		})
		if err != nil {
			return err
		}
		b.add("EIF build, 85 MiB", "ms", "<= 1.0", "peer: crate aws-nitro-enclaves-image-format, whole processes", ms(x), ms(y))
	} else {
		d, err := median(5, build)
		if err != nil {
			return err
		}
		b.add("EIF build, 85 MiB", "ms", "<= 1.0", note, ms(d), 0)
	}
	x, y, err := paired(9, func() error {
		return onFile(image, func(r io.Reader) error { _, err := eif.Measure(b.ctx, r); return err })
	},
		func() error {
			return onFile(image, func(r io.Reader) error {
				_, err := io.CopyBuffer(struct{ io.Writer }{sha512.New384()}, struct{ io.Reader }{r}, make([]byte, 1<<20))
				return err
			})
		})
	if err != nil {
		return err
	}
	b.add("EIF measure, 85 MiB", "ms", "<= 1.1", "PCR0-2 and CRC; peer: SHA-384 of the same bytes", ms(x), ms(y))
	return nil
}

func onFile(name string, f func(io.Reader) error) error {
	file, err := os.Open(name)
	if err != nil {
		return err
	}
	defer file.Close()
	return f(file)
}

// eifPeer builds the program around AWS's library, or says why there is none.
func eifPeer(b *bench) (program, note string) {
	if !have("cargo") {
		return "", "peer missing: install cargo, pkg-config and libssl-dev"
	}
	out, err := exec.CommandContext(b.ctx, "bash", "image/eif/testdata/peer/build.sh").Output()
	if err != nil {
		return "", "peer does not build: are pkg-config and libssl-dev there?"
	}
	return strings.TrimSpace(string(out)), ""
}
