package kernel

import (
	"archive/tar"
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"runtime"
	"strings"

	"github.com/cape-functions/cape/image/internal/debian"
	"github.com/cape-functions/cape/image/internal/lock"
	"github.com/cape-functions/cape/image/internal/room"
)

// Packages of Debian that the build needs, without those that they depend on.
var Packages = []string{"bash", "bc", "binutils", "bison", "coreutils", "cpp-12", "dash", "diffutils", "findutils", "flex", "gcc-12", "grep",
	"gzip", "libc6-dev", "libelf-dev", "make", "mawk", "perl-base", "sed", "tar", "xz-utils"}

// Source is Debian's package of the source.
const Source = "linux-source-6.12"

// recipe runs inside the room, as it stands there: it is one of the inputs that the cache's key is made of.
const recipe = `set -eu
mkdir /src
cd /src
tar --strip-components=1 -xJf /linux.tar.xz
rm /linux.tar.xz
run() { make -s ARCH=x86_64 CC=gcc-12 HOSTCC=gcc-12 "$@"; }
run tinyconfig
find . -name 'Kconfig*' -exec sed -n 's/^[[:space:]]*\(menu\)\{0,1\}config[[:space:]]\{1,\}\([A-Za-z0-9_]*\).*/\2/p' {} + | sort -u >/known
sed -n 's/^\(# \)\{0,1\}CONFIG_\([A-Za-z0-9_]*\)[ =].*/\2/p' /fragment | sort -u | comm -23 - /known >/unknown
if [ -s /unknown ]; then
	echo 'this kernel has no options of these names, so that nothing can be said by them:' $(cat /unknown)
	exit 1
fi
cat /fragment >>.config
run olddefconfig
cp .config /config
run -j"$JOBS" bzImage
cp arch/x86/boot/bzImage /bzImage
`

var environment = []string{"PATH=/usr/bin:/bin", "LC_ALL=C", "TZ=UTC", "KBUILD_BUILD_TIMESTAMP=@1", "KBUILD_BUILD_USER=cape",
	"KBUILD_BUILD_HOST=cape", "KBUILD_BUILD_VERSION=1"}

// Build says what to build from.
type Build struct {
	Fragment  string // on top of tinyconfig
	Source    lock.Package
	Toolchain []lock.Package
	Debs      string // where the packages lie
	Cache     string // where kernels are kept
	Log       *slog.Logger
}

// Kernel is a built kernel: two files.
type Kernel struct{ Image, Config string }

// key is the hash of all inputs.
func (b Build) key() string {
	h := sha256.New()
	for _, part := range append([]string{recipe, b.Fragment, b.Source.SHA256}, environment...) {
		fmt.Fprintf(h, "%d\n%s", len(part), part)
	}
	for _, p := range b.Toolchain {
		fmt.Fprintln(h, p.SHA256)
	}
	return hex.EncodeToString(h.Sum(nil))
}

func (b Build) dir() string { return filepath.Join(b.Cache, b.key()) }

// Cached returns the kernel of these inputs, if it was built before.
func (b Build) Cached() (Kernel, bool) {
	k := Kernel{Image: filepath.Join(b.dir(), "bzImage"), Config: filepath.Join(b.dir(), "config")}
	_, err := os.Stat(b.dir()) // a kernel's folder appears whole
	return k, err == nil
}

// Run builds, unless it was done before. Errors: ErrConfig, room.ErrNamespaces, what make said.
func (b Build) Run(ctx context.Context) (Kernel, error) {
	k, ok := b.Cached()
	if !ok {
		if err := b.build(ctx); err != nil {
			return Kernel{}, fmt.Errorf("building the kernel: %w", err)
		}
	}
	resolved, err := os.ReadFile(k.Config)
	if err != nil {
		return Kernel{}, err
	}
	return k, checkConfig(b.Fragment, string(resolved))
}

func (b Build) build(ctx context.Context) error {
	root, err := os.MkdirTemp(b.Cache, ".build-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(root)
	b.Log.Info("building the kernel: about 8 minutes on two processors, once", "source", b.Source.Version, "folder", root)
	if err := b.furnish(ctx, root); err != nil {
		return err
	}
	var said bytes.Buffer
	err = room.Run(ctx, room.Command{
		Root: root, Args: []string{"/bin/bash", "/recipe"}, Output: &tail{buf: &said},
		Env: append([]string{fmt.Sprintf("JOBS=%d", runtime.NumCPU())}, environment...),
	})
	if err != nil {
		return fmt.Errorf("%w\n%s", err, said.String())
	}
	return b.keep(root)
}

// furnish fills the room: compiler, source, recipe.
func (b Build) furnish(ctx context.Context, root string) error {
	for _, p := range b.Toolchain {
		if err := debian.Unpack(ctx, debian.File(b.Debs, p), root); err != nil {
			return err
		}
	}
	// Debian's packages make these two links when they are installed.
	err := os.Symlink("mawk", filepath.Join(root, "usr/bin/awk"))
	if sh := filepath.Join(root, "bin/sh"); err == nil {
		if _, missing := os.Lstat(sh); missing != nil {
			err = os.Symlink("dash", sh)
		}
	}
	for name, text := range map[string]string{"recipe": recipe, "fragment": b.Fragment} {
		err = errors.Join(err, os.WriteFile(filepath.Join(root, name), []byte(text), 0o644))
	}
	if err != nil {
		return err
	}
	return extractSource(ctx, debian.File(b.Debs, b.Source), filepath.Join(root, "linux.tar.xz"))
}

func extractSource(ctx context.Context, deb, to string) error {
	found := false
	err := debian.Walk(ctx, deb, func(h *tar.Header, r io.Reader) error {
		if h.Typeflag != tar.TypeReg || !strings.HasPrefix(h.Name, "usr/src/linux-source-") || !strings.HasSuffix(h.Name, ".tar.xz") {
			return nil
		}
		found = true
		f, err := os.Create(to)
		if err != nil {
			return err
		}
		_, err = io.Copy(f, r)
		return errors.Join(err, f.Close())
	})
	if err == nil && !found {
		err = errors.New("the package of the source holds no source")
	}
	return err
}

// keep moves what was built into the cache, whole or not at all.
func (b Build) keep(root string) error {
	done, err := os.MkdirTemp(b.Cache, ".done-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(done)
	for _, name := range []string{"bzImage", "config"} {
		if err := os.Rename(filepath.Join(root, name), filepath.Join(done, name)); err != nil {
			return err
		}
	}
	err = os.Rename(done, b.dir())
	if _, ok := b.Cached(); ok {
		return nil // another build was faster: it has the same inputs
	}
	return err
}

// tail keeps the last part of what a build prints.
type tail struct{ buf *bytes.Buffer }

const tailSize = 8 << 10

func (t *tail) Write(p []byte) (int, error) {
	t.buf.Write(p)
	if extra := t.buf.Len() - tailSize; extra > 0 {
		t.buf.Next(extra)
	}
	return len(p), nil
}
