package debian

import (
	"archive/tar"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path"
	"path/filepath"
	"strings"
)

// Walk passes every file of a package to f, names without "./" at the front. f may read content from r until it returns.
func Walk(ctx context.Context, deb string, f func(h *tar.Header, r io.Reader) error) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel() // ends dpkg-deb when f gave up
	cmd := exec.CommandContext(ctx, "dpkg-deb", "--fsys-tarfile", deb)
	var errs bytes.Buffer
	cmd.Stderr = &errs
	pipe, err := cmd.StdoutPipe()
	if err != nil {
		return err
	}
	if err := cmd.Start(); err != nil {
		return fmt.Errorf("%w: %w", ErrNoApt, err)
	}
	err = walkTar(pipe, f)
	if err != nil {
		cancel()
	}
	if werr := cmd.Wait(); err == nil && werr != nil {
		err = fmt.Errorf("dpkg-deb: %w: %s", werr, strings.TrimSpace(errs.String()))
	}
	if err != nil {
		return fmt.Errorf("taking %s apart: %w", filepath.Base(deb), err)
	}
	return nil
}

func walkTar(r io.Reader, f func(h *tar.Header, r io.Reader) error) error {
	t := tar.NewReader(r)
	for {
		h, err := t.Next()
		if errors.Is(err, io.EOF) {
			_, err = io.Copy(io.Discard, r)
			return err
		}
		if err != nil {
			return err
		}
		h.Name = path.Clean(strings.TrimPrefix(h.Name, "./"))
		if h.Name == "." {
			continue
		}
		if !filepath.IsLocal(h.Name) {
			return fmt.Errorf("%s: a path that leaves the package", h.Name)
		}
		if err := f(h, t); err != nil {
			return err
		}
	}
}

// Unpack puts a package's files below root, which nothing else changes meanwhile: directories, files and links,
// without owners and devices.
func Unpack(ctx context.Context, deb, root string) error {
	tree, err := os.OpenRoot(root)
	if err != nil {
		return err
	}
	defer tree.Close()
	return Walk(ctx, deb, func(h *tar.Header, r io.Reader) error { return place(tree, h, r) })
}

func place(tree *os.Root, h *tar.Header, r io.Reader) error {
	mode := os.FileMode(h.Mode) & 0o777
	switch h.Typeflag {
	case tar.TypeDir:
		err := tree.Mkdir(h.Name, mode|0o700)
		if errors.Is(err, os.ErrExist) {
			return nil
		}
		return err
	case tar.TypeSymlink:
		return tree.Symlink(h.Linkname, h.Name)
	case tar.TypeLink:
		return tree.Link(path.Clean(strings.TrimPrefix(h.Linkname, "./")), h.Name)
	case tar.TypeReg:
		f, err := tree.OpenFile(h.Name, os.O_CREATE|os.O_WRONLY|os.O_EXCL, mode|0o200)
		if err != nil {
			return err
		}
		_, err = io.Copy(f, r)
		return errors.Join(err, f.Close())
	}
	return nil
}
