package assembly

import (
	"bytes"
	"context"
	"debug/buildinfo"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/cape-functions/cape/core/wire"
	"github.com/cape-functions/cape/image/eif"
	"github.com/cape-functions/cape/image/internal/kernel"
	"github.com/cape-functions/cape/image/internal/rootfs"
	"github.com/cape-functions/cape/image/internal/sbom"
)

// Clock tells the time.
type Clock func() time.Time

// platform is what wheels for the image must be made for, as sysconfig.get_platform says in it.
const platform = "linux-x86_64"

// image is one image on the way.
type image struct {
	name    string // also that of the runtime's command
	cmdline string
	runtime []byte
	info    *buildinfo.BuildInfo
	ours    *rootfs.Tree
}

// images builds the runtimes and writes everything into the output folder.
func (w *work) images(ctx context.Context, k kernel.Kernel, base *rootfs.Tree) error {
	if err := os.MkdirAll(w.Out, 0o755); err != nil {
		return err
	}
	for _, i := range []image{
		{name: "cape-runtime", cmdline: w.cmdline},
		{name: "cape-runtime-dev", cmdline: w.cmdline + " " + eif.DevelopmentMark},
	} {
		if err := w.compile(ctx, &i); err != nil {
			return err
		}
		if err := w.image(ctx, k, base, &i); err != nil {
			return fmt.Errorf("image %s: %w", i.name, err)
		}
	}
	return nil
}

// compile builds a runtime by the pinned toolchain, whatever the machine's own settings are.
func (w *work) compile(ctx context.Context, i *image) error {
	out := filepath.Join(w.tmp, i.name)
	cmd := exec.CommandContext(ctx, "go", "build", "-ldflags=-s -w -buildid=", "-o", out, "./enclave/cmd/"+i.name)
	cmd.Dir = w.Root
	cmd.Env = append(os.Environ(), "GOTOOLCHAIN="+w.lock.Go, "GOFLAGS=-buildvcs=false -trimpath -mod=readonly", "GOWORK=off", "CGO_ENABLED=0",
		"GOOS=linux", "GOARCH=amd64", "GOAMD64=v1", "GOEXPERIMENT=", "GOFIPS140=off", "GODEBUG=")
	if said, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("compiling %s by %s: %w\n%s", i.name, w.lock.Go, err, bytes.TrimSpace(said))
	}
	var err error
	if i.runtime, err = os.ReadFile(out); err != nil {
		return err
	}
	if i.info, err = buildinfo.Read(bytes.NewReader(i.runtime)); err != nil {
		return err
	}
	if i.info.GoVersion != w.lock.Go {
		return fmt.Errorf("%w: %s was compiled by %s, not by %s", ErrDiffers, i.name, i.info.GoVersion, w.lock.Go)
	}
	i.ours, err = rootfs.Ours(i.runtime, w.worker)
	return err
}

// revision is the commit that the images are built from.
func (w *work) revision(ctx context.Context) string {
	if w.Revision != "" {
		return w.Revision
	}
	out, err := exec.CommandContext(ctx, "git", "-C", w.Root, "rev-parse", "--short=12", "HEAD").Output()
	if err != nil {
		return "unknown"
	}
	return strings.TrimSpace(string(out))
}

// image writes one image and what belongs to it.
func (w *work) image(ctx context.Context, k kernel.Kernel, base *rootfs.Tree, i *image) error {
	revision := w.revision(ctx)
	path := filepath.Join(w.Out, i.name+".eif")
	m, parts, err := w.write(ctx, path, revision, k, base, i)
	if err != nil {
		return err
	}
	sum, err := digest(path)
	if err != nil {
		return err
	}
	release := wire.Release{Measurements: m.Map(), ImageSHA256: sum, Revision: revision, Python: rootfs.Python, Platform: platform}
	text, err := json.MarshalIndent(release, "", "  ")
	if err != nil {
		return err
	}
	var bill, table bytes.Buffer
	err = sbom.Write(&bill, sbom.Image{
		Name: i.name, Version: revision, SHA256: sum, Created: w.lock.Renewed, Debian: w.lock.Packages, Kernel: w.lock.Source, Runtime: i.info,
	})
	if err = errors.Join(err, sizes(&table, base, parts)); err != nil {
		return err
	}
	for ending, data := range map[string][]byte{".release.json": append(text, '\n'), ".spdx.json": bill.Bytes(), ".sizes.txt": table.Bytes()} {
		if err := os.WriteFile(filepath.Join(w.Out, i.name+ending), data, 0o644); err != nil {
			return err
		}
	}
	w.Log.Info("image", "file", path, "PCR0", m.PCR0, "PCR1", m.PCR1, "PCR2", m.PCR2, "bytes", parts.total)
	return nil
}

// lengths of the parts of an image, in bytes.
type lengths struct{ kernel, base, ours, total int64 }

// write writes the image itself, whole or not at all.
func (w *work) write(ctx context.Context, path, revision string, k kernel.Kernel, base *rootfs.Tree, i *image) (eif.Measurements, lengths, error) {
	var l lengths
	var archives [2]bytes.Buffer
	for n, t := range []*rootfs.Tree{base, i.ours} {
		if err := t.Write(&archives[n]); err != nil {
			return eif.Measurements{}, l, err
		}
	}
	bzImage, err := os.ReadFile(k.Image)
	if err != nil {
		return eif.Measurements{}, l, err
	}
	l = lengths{kernel: int64(len(bzImage)), base: int64(archives[0].Len()), ours: int64(archives[1].Len())}
	f, err := os.CreateTemp(w.Out, ".image-*")
	if err != nil {
		return eif.Measurements{}, l, err
	}
	defer os.Remove(f.Name())
	m, err := eif.Write(ctx, f, eif.Parts{
		Kernel: eif.Part{Content: bytes.NewReader(bzImage), Size: l.kernel}, Cmdline: i.cmdline,
		Ramdisks: []eif.Part{{Content: &archives[0], Size: l.base}, {Content: &archives[1], Size: l.ours}},
		Name:     i.name, Version: revision,
	})
	if err == nil {
		l.total, err = f.Seek(0, io.SeekEnd)
	}
	if err == nil && l.total > MaxImage {
		err = fmt.Errorf("%w: %d bytes, not %d", ErrTooLarge, l.total, MaxImage)
	}
	if err = errors.Join(err, f.Chmod(0o644), f.Close()); err != nil {
		return m, l, err
	}
	return m, l, os.Rename(f.Name(), path)
}

// sizes writes the table of sizes.
func sizes(to io.Writer, base *rootfs.Tree, l lengths) error {
	t := tabwriter.NewWriter(to, 0, 0, 2, ' ', tabwriter.AlignRight)
	fmt.Fprintln(t, "bytes\t part")
	row := func(n int64, what string) { fmt.Fprintf(t, "%d\t %s\n", n, what) }
	row(l.total, "image")
	row(l.kernel, "  kernel")
	row(l.base, "  base ramdisk")
	packages := base.Sizes()
	names := slices.SortedFunc(maps.Keys(packages), func(x, y string) int {
		if packages[x] != packages[y] {
			return int(packages[y] - packages[x])
		}
		return strings.Compare(x, y)
	})
	for _, name := range names {
		row(packages[name], "    "+name)
	}
	row(l.ours, "  runtime ramdisk")
	return t.Flush()
}
