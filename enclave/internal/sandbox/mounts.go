package sandbox

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"golang.org/x/sys/unix"
)

// functionDir holds the working directory and rpc.sock.
const functionDir = "/function"

// Names inside the new root while it is being built.
const (
	lowerName   = ".lower"
	scratchName = ".scratch"
)

const readOnlyAttr = unix.MOUNT_ATTR_RDONLY | unix.MOUNT_ATTR_NOSUID | unix.MOUNT_ATTR_NODEV

// buildRoot makes the tree of o below o.Root and makes it this process's root.
// All paths on the way are relative to the new root, so nothing in o can be
// taken for a mount option.
func buildRoot(o *order, r *report) error {
	if err := unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""); err != nil {
		return fmt.Errorf("making mounts private: %w", err)
	}
	if err := unix.Mount("cape", o.Root, "tmpfs", unix.MS_NOSUID|unix.MS_NODEV, "size=4m,nr_inodes=8192,mode=0755"); err != nil {
		return fmt.Errorf("mounting the root: %w", err)
	}
	if err := os.Chdir(o.Root); err != nil {
		return err
	}
	for _, step := range []func(*order, *report) error{mountScratch, bindSystem, makeDevices, writeEtc, mountTree, bindSocket, enterRoot} {
		if err := step(o, r); err != nil {
			return err
		}
	}
	return nil
}

// mountScratch mounts the one file system that the program can write.
func mountScratch(o *order, _ *report) error {
	if err := os.Mkdir(scratchName, 0o700); err != nil {
		return err
	}
	size := o.Limits.Scratch
	if o.Copy && o.Tree != "" {
		n, err := treeSize(o.Tree)
		if err != nil {
			return fmt.Errorf("measuring the function: %w", err)
		}
		size += n
	}
	options := fmt.Sprintf("size=%d,nr_inodes=%d,mode=0700", size, max(size/4096, 1024))
	if err := unix.Mount("cape", scratchName, "tmpfs", unix.MS_NOSUID|unix.MS_NODEV, options); err != nil {
		return fmt.Errorf("mounting scratch space: %w", err)
	}
	for name, mode := range map[string]os.FileMode{"tmp": 0o777 | os.ModeSticky, "shm": 0o777 | os.ModeSticky, "upper": 0o755, "work": 0o700} {
		dir := filepath.Join(scratchName, name)
		if err := errors.Join(os.Mkdir(dir, 0o700), os.Chmod(dir, mode)); err != nil {
			return err
		}
	}
	if err := os.Chown(filepath.Join(scratchName, "upper"), o.ID, o.ID); err != nil {
		return fmt.Errorf("giving the working directory to the program's user: %w", err)
	}
	return errors.Join(bind(filepath.Join(scratchName, "tmp"), "tmp"), bind(filepath.Join(scratchName, "shm"), "dev/shm"))
}

// bindSystem shows the system's programs and libraries and o.ReadOnly.
func bindSystem(o *order, _ *report) error {
	links := map[string]string{}
	var paths []string
	for _, name := range []string{"usr", "bin", "sbin", "lib", "lib32", "lib64", "libx32"} {
		info, err := os.Lstat("/" + name)
		switch {
		case err != nil:
		case info.Mode()&os.ModeSymlink != 0:
			target, err := os.Readlink("/" + name)
			if err != nil {
				return err
			}
			if err := os.Symlink(target, name); err != nil {
				return err
			}
			links[name] = filepath.Join("/", target)
		case info.IsDir():
			paths = append(paths, "/"+name)
		}
	}
	paths = append(paths, "/etc/ld.so.cache", "/etc/alternatives")
	for _, p := range o.ReadOnly {
		real, err := filepath.EvalSymlinks(p)
		if err != nil {
			return fmt.Errorf("resolving a directory to show: %w", err)
		}
		paths = append(paths, real, throughLinks(filepath.Clean(p), links))
	}
	for _, p := range outermost(paths) {
		if err := bindReadOnly(p); err != nil {
			return fmt.Errorf("showing %s: %w", p, err)
		}
	}
	return nil
}

// throughLinks resolves the first element of an absolute path as the new root
// will: /lib/x is /usr/lib/x where /lib is a link.
func throughLinks(p string, links map[string]string) string {
	first, rest, _ := strings.Cut(strings.TrimPrefix(p, "/"), "/")
	if target, ok := links[first]; ok {
		return filepath.Join(target, rest)
	}
	return p
}

// outermost drops paths that lie below others.
func outermost(paths []string) []string {
	slices.Sort(paths)
	var out []string
	for _, p := range paths {
		covered := slices.ContainsFunc(out, func(q string) bool { return p == q || strings.HasPrefix(p, q+"/") })
		if !covered {
			out = append(out, p)
		}
	}
	return out
}

func bindReadOnly(path string) error {
	info, err := os.Stat(path)
	if errors.Is(err, os.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	target := strings.TrimPrefix(path, "/")
	if info.IsDir() {
		err = bind(path, target)
	} else {
		err = bindFile(path, target)
	}
	if err != nil {
		return err
	}
	return setAttr(target, readOnlyAttr)
}

// bind mounts a directory and all below it.
func bind(source, target string) error {
	if err := os.MkdirAll(target, 0o755); err != nil {
		return err
	}
	return unix.Mount(source, target, "", unix.MS_BIND|unix.MS_REC, "")
}

func bindFile(source, target string) error {
	if err := os.MkdirAll(filepath.Dir(target), 0o755); err != nil {
		return err
	}
	f, err := os.OpenFile(target, os.O_CREATE|os.O_WRONLY|os.O_EXCL, 0o444)
	if err != nil {
		return err
	}
	f.Close()
	return unix.Mount(source, target, "", unix.MS_BIND, "")
}

// setAttr adds attributes to a mount and all below it. Where an outer namespace
// locked flags on a mount they stay: none is ever taken away.
func setAttr(target string, attr uint64) error {
	err := unix.MountSetattr(unix.AT_FDCWD, target, unix.AT_RECURSIVE, &unix.MountAttr{Attr_set: attr})
	if errors.Is(err, unix.ENOSYS) {
		return fmt.Errorf("mount_setattr: %w: the kernel must be 5.14 or newer", err)
	}
	return err
}

func makeDevices(*order, *report) error {
	for _, name := range []string{"null", "zero", "full", "random", "urandom"} {
		target := "dev/" + name
		if err := bindFile("/"+target, target); err != nil {
			return fmt.Errorf("showing /%s: %w", target, err)
		}
		if err := setAttr(target, unix.MOUNT_ATTR_RDONLY|unix.MOUNT_ATTR_NOSUID|unix.MOUNT_ATTR_NOEXEC); err != nil {
			return err
		}
	}
	return nil
}

// writeEtc names the program's user, so that looking up one's own name works.
func writeEtc(o *order, _ *report) error {
	if err := os.MkdirAll("etc", 0o755); err != nil {
		return err
	}
	for name, text := range map[string]string{
		"passwd": fmt.Sprintf("cape:x:%d:%d:cape:/tmp:/bin/sh\n", o.ID, o.ID),
		"group":  fmt.Sprintf("cape:x:%d:\n", o.ID),
		"hosts":  "127.0.0.1 localhost\n::1 localhost\n",
	} {
		if err := os.WriteFile(filepath.Join("etc", name), []byte(text), 0o644); err != nil {
			return err
		}
	}
	return nil
}

// mountTree puts the function's folder, writable, at its place.
func mountTree(o *order, r *report) error {
	work := strings.TrimPrefix(workDir(o), "/")
	if err := os.MkdirAll(work, 0o755); err != nil {
		return err
	}
	upper := filepath.Join(scratchName, "upper")
	if o.Tree == "" {
		return bind(upper, work)
	}
	if o.Copy {
		if err := copyTree(o.Tree, upper, o.ID); err != nil {
			return fmt.Errorf("copying the function: %w", err)
		}
		return bind(upper, work)
	}
	if err := bind(o.Tree, lowerName); err != nil {
		return fmt.Errorf("showing the function: %w", err)
	}
	options := "lowerdir=" + lowerName + ",upperdir=" + upper + ",workdir=" + filepath.Join(scratchName, "work")
	if o.UserNS {
		options += ",userxattr"
	}
	if err := unix.Mount("cape", work, "overlay", unix.MS_NOSUID|unix.MS_NODEV, options); err != nil {
		r.NoOverlay = err.Error()
		return fmt.Errorf("mounting an overlay: %w", err)
	}
	return unix.Unmount(lowerName, unix.MNT_DETACH)
}

// workDir is where the program finds the function's folder.
func workDir(o *order) string {
	if !o.Namespaces {
		return filepath.Join(o.Root, functionDir, o.Name)
	}
	return filepath.Join(functionDir, o.Name)
}

// enterRoot makes the new tree the root, lets go of the old one, and makes the
// root read-only.
func enterRoot(_ *order, r *report) error {
	if err := unix.Unmount(scratchName, unix.MNT_DETACH); err != nil {
		return fmt.Errorf("hiding the scratch space: %w", err)
	}
	for _, name := range []string{scratchName, lowerName} {
		if err := os.Remove(name); err != nil && !errors.Is(err, os.ErrNotExist) {
			return err
		}
	}
	if err := switchRoot(r); err != nil {
		return err
	}
	return unix.MountSetattr(unix.AT_FDCWD, "/", 0, &unix.MountAttr{Attr_set: readOnlyAttr})
}

func switchRoot(r *report) error {
	err := unix.PivotRoot(".", ".")
	if err == nil {
		if err := unix.Unmount(".", unix.MNT_DETACH); err != nil {
			return fmt.Errorf("letting go of the old root: %w", err)
		}
		return os.Chdir("/")
	}
	// An initial ramfs cannot be pivoted away from. Its tree stays mounted beneath
	// the new root, out of reach for a program without capabilities.
	r.NoPivot = err.Error()
	if err := unix.Mount(".", "/", "", unix.MS_MOVE, ""); err != nil {
		return fmt.Errorf("moving the new root (pivot_root: %s): %w", r.NoPivot, err)
	}
	if err := unix.Chroot("."); err != nil {
		return fmt.Errorf("changing the root: %w", err)
	}
	return os.Chdir("/")
}
