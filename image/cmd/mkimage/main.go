// Command mkimage builds the enclave's images from inputs that image/lock.json pins, and renews that file. See
// image/README.md; make image and make image-lock run it.
package main

import (
	"context"
	"flag"
	"fmt"
	"log/slog"
	"os"
	"os/signal"
	"path/filepath"
	"runtime"
	"syscall"
	"time"

	"github.com/cape-functions/cape/image/internal/assembly"
	"github.com/cape-functions/cape/image/internal/room"
)

const usage = `mkimage build [flags]   builds bin/cape-runtime.eif and bin/cape-runtime-dev.eif
mkimage lock [flags]    pins the newest packages in image/lock.json, builds from them, notes the digests
`

func main() {
	room.MaybeInside()
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM, syscall.SIGINT)
	defer stop()
	if err := run(ctx, os.Args[1:]); err != nil {
		fmt.Fprintln(os.Stderr, "mkimage:", err)
		os.Exit(1)
	}
}

func run(ctx context.Context, args []string) error {
	flags := flag.NewFlagSet("mkimage", flag.ContinueOnError)
	flags.Usage = func() { fmt.Fprint(flags.Output(), usage); flags.PrintDefaults() }
	root := flags.String("root", ".", "folder of the project")
	out := flags.String("out", "bin", "folder for the images")
	cache := flags.String("cache", os.Getenv("CAPE_IMAGE_CACHE"), "folder for packages and kernels (default: cape below $XDG_CACHE_HOME or ~/.cache)")
	mirror := flags.String("mirror", environment("CAPE_DEBIAN_MIRROR", "http://deb.debian.org/debian"), "Debian's mirror")
	security := flags.String("security", environment("CAPE_DEBIAN_SECURITY", "http://deb.debian.org/debian-security"), "mirror of Debian's security updates")
	revision := flags.String("revision", "", "what the images say they are built from (default: git's commit)")
	keep := flags.Bool("keep-packages", false, "lock: keep the packages that are pinned, note digests anew")
	if len(args) == 0 || args[0] != "build" && args[0] != "lock" {
		fmt.Fprint(os.Stderr, usage)
		return fmt.Errorf("nothing to do: say build or lock")
	}
	if err := flags.Parse(args[1:]); err != nil {
		return err
	}
	if flags.NArg() > 0 {
		return fmt.Errorf("%q is too much", flags.Args())
	}
	o := assembly.Options{Root: *root, Out: *out, Cache: *cache, Mirror: *mirror, Security: *security, Revision: *revision, Log: slog.New(slog.NewTextHandler(os.Stderr, nil))}
	if o.Cache == "" {
		base, err := os.UserCacheDir()
		if err != nil {
			return err
		}
		o.Cache = filepath.Join(base, "cape")
	}
	for _, path := range []*string{&o.Root, &o.Out, &o.Cache} {
		abs, err := filepath.Abs(*path)
		if err != nil {
			return err
		}
		*path = abs
	}
	if args[0] == "lock" {
		return assembly.Renew(ctx, o, runtime.Version(), time.Now, *keep)
	}
	return assembly.Make(ctx, o)
}

func environment(name, otherwise string) string {
	if v := os.Getenv(name); v != "" {
		return v
	}
	return otherwise
}
