// Package assembly makes the enclave's images: it fetches what the lock file pins, builds kernel and ramdisks, compares them
// with the lock file, and writes images, releases, bills of materials and a table of sizes.
package assembly

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"time"

	"github.com/cape-functions/cape/image/internal/debian"
	"github.com/cape-functions/cape/image/internal/kernel"
	"github.com/cape-functions/cape/image/internal/lock"
	"github.com/cape-functions/cape/image/internal/rootfs"
)

// Errors that callers test.
var (
	// ErrDiffers: a part came out otherwise than the lock file says.
	ErrDiffers = errors.New("what was built is not what image/lock.json says")
	// ErrCache: others could change what lies in the cache between its being compared and its being used.
	ErrCache = errors.New("the cache must be yours, or root's, and writable for nobody else")
	// ErrTooLarge: an image is larger than MaxImage.
	ErrTooLarge = errors.New("image too large")
)

// MaxImage bounds an image, in bytes: an enclave needs four times as much memory only to start.
const MaxImage = 120 << 20

// Options say where things are. All paths are absolute.
type Options struct {
	Root             string // of the project
	Out              string // folder of the images
	Cache            string // packages and kernels
	Mirror, Security string // addresses of Debian's mirror
	Revision         string // empty: git's
	Log              *slog.Logger
}

const suite = "bookworm"

// work is one run.
type work struct {
	Options
	lock     *lock.Lock
	fragment string
	cmdline  string
	apt      *debian.Apt // nil until something must be fetched
	tmp      string
	worker   *rootfs.Tree
}

func (o Options) file(name string) string { return filepath.Join(o.Root, "image", name) }

// open reads the project's inputs but the lock file.
func open(o Options) (*work, error) {
	w := &work{Options: o}
	for _, dir := range []string{o.Cache, w.debs(), w.kernels()} {
		if err := os.MkdirAll(dir, 0o755); err != nil {
			return nil, err
		}
		if err := checkOwn(dir); err != nil {
			return nil, err
		}
	}
	fragment, err := os.ReadFile(o.file("kernel.config"))
	if err != nil {
		return nil, err
	}
	cmdline, err := os.ReadFile(o.file("cmdline"))
	if err != nil {
		return nil, err
	}
	w.fragment, w.cmdline = string(fragment), strings.TrimSpace(string(cmdline))
	w.tmp, err = os.MkdirTemp(o.Cache, ".work-")
	return w, err
}

// checkOwn refuses a folder of the cache that others may write to.
func checkOwn(dir string) error {
	info, err := os.Stat(dir)
	if err != nil {
		return err
	}
	owner := info.Sys().(*syscall.Stat_t).Uid
	if owner != 0 && owner != uint32(os.Geteuid()) || info.Mode().Perm()&0o022 != 0 {
		return fmt.Errorf("%w: %s is of user %d, with mode %#o", ErrCache, dir, owner, info.Mode().Perm())
	}
	return nil
}

func (w *work) close() error    { return os.RemoveAll(w.tmp) }
func (w *work) debs() string    { return filepath.Join(w.Cache, "packages") }
func (w *work) kernels() string { return filepath.Join(w.Cache, "kernels") }

// connect starts apt, once.
func (w *work) connect(ctx context.Context) (err error) {
	if w.apt == nil {
		w.Log.Info("reading the mirror's lists", "mirror", w.Mirror)
		sources := debian.Sources{Mirror: w.Mirror, Security: w.Security, Suite: suite}
		w.apt, err = debian.New(ctx, filepath.Join(w.tmp, "apt"), sources)
	}
	return err
}

// fetch gets what is not in the cache.
func (w *work) fetch(ctx context.Context, packages []lock.Package) error {
	missing, err := debian.Missing(w.debs(), packages)
	if err != nil || len(missing) == 0 {
		return err
	}
	if err := w.connect(ctx); err != nil {
		return err
	}
	w.Log.Info("fetching packages", "count", len(missing))
	return w.apt.Fetch(ctx, w.debs(), missing)
}

// kernel builds the kernel, or finds it in the cache, and returns it with its digest.
func (w *work) kernel(ctx context.Context) (kernel.Kernel, string, error) {
	b := kernel.Build{
		Fragment: w.fragment, Source: w.lock.Source, Toolchain: w.lock.Toolchain, Debs: w.debs(), Cache: w.kernels(), Log: w.Log,
	}
	if _, ok := b.Cached(); !ok {
		if err := w.fetch(ctx, append([]lock.Package{w.lock.Source}, w.lock.Toolchain...)); err != nil {
			return kernel.Kernel{}, "", err
		}
	}
	k, err := b.Run(ctx)
	if err != nil {
		return k, "", err
	}
	sum, err := digest(k.Image)
	return k, sum, err
}

// base makes the base ramdisk and returns it with its digest. The worker's files are compiled with it.
func (w *work) base(ctx context.Context) (*rootfs.Tree, string, error) {
	if err := w.readWorker(); err != nil {
		return nil, "", err
	}
	if err := w.fetch(ctx, w.lock.Packages); err != nil {
		return nil, "", err
	}
	t, err := rootfs.Base(ctx, w.debs(), w.lock.Packages)
	if err != nil {
		return nil, "", err
	}
	if err := errors.Join(t.CheckLinks(), t.Compile(ctx, w.tmp, w.worker)); err != nil {
		return nil, "", err
	}
	sum, err := t.SHA256()
	return t, sum, err
}

// readWorker reads what the runtimes embed, too: package python.
func (w *work) readWorker() error {
	names, err := filepath.Glob(filepath.Join(w.Root, "enclave", "python", "*.py"))
	if err != nil {
		return err
	}
	files := map[string][]byte{}
	for _, name := range names {
		if files[filepath.Base(name)], err = os.ReadFile(name); err != nil {
			return err
		}
	}
	w.worker, err = rootfs.Worker(files)
	return err
}

// same compares a part with the lock file.
func same(part, want, got, hint string) error {
	if want == got {
		return nil
	}
	return fmt.Errorf("%w: the %s has SHA-256 %s, not %s: %s", ErrDiffers, part, got, want, hint)
}

const (
	hintKernel = "image/kernel.config or the recipe changed (make image-lock writes the new value), or this machine builds otherwise (tell us)"
	hintBase   = "image/internal/rootfs changed (make image-lock writes the new value), or this machine builds otherwise (tell us)"
)

// Make builds both images. Errors: ErrDiffers, ErrTooLarge, debian.ErrGone, those of the parts.
func Make(ctx context.Context, o Options) (err error) {
	w, err := open(o)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, w.close()) }()
	if w.lock, err = lock.Read(o.file("lock.json")); err != nil {
		return err
	}
	k, sum, err := w.kernel(ctx)
	if err != nil {
		return err
	}
	base, baseSum, err := w.base(ctx)
	if err != nil {
		return err
	}
	if err := errors.Join(same("kernel", w.lock.Kernel, sum, hintKernel), same("base ramdisk", w.lock.Base, baseSum, hintBase)); err != nil {
		return err
	}
	return w.images(ctx, k, base)
}

// Renew pins the newest packages, builds kernel and base from them, and writes the lock file. With keep, packages stay as
// they are: for a change of the configuration alone. A renewed file that pins nothing new keeps its date.
func Renew(ctx context.Context, o Options, goVersion string, now Clock, keep bool) (err error) {
	w, err := open(o)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, w.close()) }()
	old, err := lock.Read(o.file("lock.json"))
	if err != nil && (keep || !errors.Is(err, os.ErrNotExist)) {
		return err
	}
	if keep {
		w.lock = old
	} else if err := w.pin(ctx); err != nil {
		return err
	}
	w.lock.Go, w.lock.Renewed = goVersion, now().UTC().Truncate(24*time.Hour)
	if _, w.lock.Kernel, err = w.kernel(ctx); err != nil {
		return err
	}
	if _, w.lock.Base, err = w.base(ctx); err != nil {
		return err
	}
	if old != nil && unchanged(old, w.lock) {
		w.lock.Renewed = old.Renewed
	}
	return w.lock.Write(o.file("lock.json"))
}

func unchanged(x, y *lock.Lock) bool {
	return x.Go == y.Go && x.Source == y.Source && x.Kernel == y.Kernel && x.Base == y.Base &&
		slices.Equal(x.Packages, y.Packages) && slices.Equal(x.Toolchain, y.Toolchain)
}

// pin asks the mirror for the newest packages.
func (w *work) pin(ctx context.Context) error {
	if err := w.connect(ctx); err != nil {
		return err
	}
	source, err := w.apt.Newest(ctx, []string{kernel.Source})
	if err != nil {
		return err
	}
	packages, err := w.apt.Newest(ctx, rootfs.Packages)
	if err != nil {
		return err
	}
	toolchain, err := w.apt.Closure(ctx, kernel.Packages)
	if err != nil {
		return err
	}
	w.lock = &lock.Lock{Source: source[0], Packages: packages, Toolchain: toolchain}
	return nil
}

func digest(path string) (string, error) {
	f, err := os.Open(path)
	if err != nil {
		return "", err
	}
	defer f.Close()
	h := sha256.New()
	if _, err := io.Copy(h, f); err != nil {
		return "", err
	}
	return hex.EncodeToString(h.Sum(nil)), nil
}
