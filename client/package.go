package client

import (
	"archive/zip"
	"bufio"
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"github.com/cape-functions/cape/core/funczip"
	"github.com/cape-functions/cape/core/wire"
)

// handlerFile is what every function has.
const handlerFile = "app.py"

// Package is a function ready to be deployed or tested: a zip file on disk. Close it
// after use.
type Package struct {
	// Name is that of the folder, or of the zip file without ".zip".
	Name string
	// Checksum is the SHA-256 of the zip: the function checksum.
	Checksum [32]byte
	// Size is that of the zip in bytes, Files the number of its entries.
	Size  int64
	Files int
	// Progress, if set, is told how much was uploaded.
	Progress func(done, total int64)

	file *os.File
	temp bool
}

// Pack makes a package of a deploy folder, or opens a zip file. A folder's zip is kept
// in a temporary file in tempDir (empty: the system's), for its owner's eyes alone,
// until Close. Errors match ErrPackage, ErrTooLarge, or are those of the file system.
func Pack(ctx context.Context, path, tempDir string) (*Package, error) {
	info, err := os.Stat(path)
	if err != nil {
		return nil, err
	}
	whole, err := filepath.Abs(path) // "." has a name, too
	if err != nil {
		return nil, err
	}
	base := filepath.Base(whole)
	switch {
	case info.IsDir():
		return packFolder(ctx, whole, base, tempDir)
	case !info.Mode().IsRegular() || !strings.EqualFold(filepath.Ext(base), ".zip"):
		return nil, fmt.Errorf("%w: %s is neither a folder nor a .zip file", ErrPackage, path)
	}
	return openZip(whole, base[:len(base)-len(".zip")], info.Size())
}

func packFolder(ctx context.Context, dir, name, tempDir string) (_ *Package, err error) {
	root, err := os.OpenRoot(dir)
	if err != nil {
		return nil, err
	}
	defer root.Close()
	if err := checkFolder(root.FS(), dir, name); err != nil {
		return nil, err
	}
	f, err := os.CreateTemp(tempDir, "cape-deploy-*.zip") // mode 0600
	if err != nil {
		return nil, err
	}
	// Without a name it cannot be left behind; Windows removes no open file.
	p := &Package{Name: name, file: f, temp: os.Remove(f.Name()) != nil}
	defer func() {
		if err != nil {
			_ = p.Close()
		}
	}()
	sum := sha256.New()
	w := bufio.NewWriterSize(f, 1<<20)
	size, err := funczip.Write(io.MultiWriter(w, sum), root.FS(), name,
		funczip.Options{Progress: func(int64) error { return context.Cause(ctx) }})
	if err == nil {
		err = w.Flush()
	}
	if err != nil {
		return nil, packageError(err)
	}
	if size.Zip > wire.MaxFunctionZip {
		return nil, fmt.Errorf("%w: the zip has %d bytes, %d are allowed", ErrTooLarge, size.Zip, int64(wire.MaxFunctionZip))
	}
	p.Size, p.Files, p.Checksum = size.Zip, size.Files, [32]byte(sum.Sum(nil))
	return p, nil
}

// checkFolder finds what the server would refuse, before anything is packed.
func checkFolder(fsys fs.FS, dir, name string) error {
	if _, err := funczip.Scan(fsys, name, funczip.Options{}); err != nil {
		return packageError(err)
	}
	info, err := fs.Stat(fsys, handlerFile)
	if errors.Is(err, fs.ErrNotExist) || err == nil && !info.Mode().IsRegular() {
		return fmt.Errorf("%w: %s holds no %s", ErrPackage, dir, handlerFile)
	}
	return err
}

func openZip(path, name string, size int64) (_ *Package, err error) {
	if size > wire.MaxFunctionZip {
		return nil, fmt.Errorf("%w: %s has %d bytes, %d are allowed", ErrTooLarge, path, size, int64(wire.MaxFunctionZip))
	}
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	p := &Package{Name: name, Size: size, file: f}
	defer func() {
		if err != nil {
			_ = p.Close()
		}
	}()
	z, err := zip.NewReader(f, size)
	if err != nil {
		return nil, fmt.Errorf("%w: %s cannot be read as a zip", ErrPackage, path)
	}
	if err := checkZip(z, path); err != nil {
		return nil, err
	}
	sum := sha256.New()
	if _, err := io.Copy(sum, io.NewSectionReader(f, 0, size)); err != nil {
		return nil, err
	}
	p.Files, p.Checksum = len(z.File), [32]byte(sum.Sum(nil))
	return p, nil
}

// checkZip looks for the handler at the root or below one top folder, and bounds what
// the zip says that it unpacks to. The enclave checks everything again.
func checkZip(z *zip.Reader, path string) error {
	var plain uint64
	found := false
	for _, f := range z.File {
		plain += min(f.UncompressedSize64, wire.MaxFunctionTree+1)
		if plain > wire.MaxFunctionTree {
			return fmt.Errorf("%w: %s unpacks to more than %d bytes", ErrTooLarge, path, int64(wire.MaxFunctionTree))
		}
		top, rest, below := strings.Cut(f.Name, "/")
		found = found || !below && top == handlerFile || below && rest == handlerFile
	}
	switch {
	case len(z.File) == 0:
		return fmt.Errorf("%w: %s is empty", ErrPackage, path)
	case len(z.File) > wire.MaxFunctionFiles:
		return fmt.Errorf("%w: %s holds more than %d files", ErrTooLarge, path, wire.MaxFunctionFiles)
	case !found:
		return fmt.Errorf("%w: %s holds no %s, neither at its root nor in one top folder", ErrPackage, path, handlerFile)
	}
	return nil
}

func packageError(err error) error {
	switch {
	case errors.Is(err, funczip.ErrTooLarge):
		return fmt.Errorf("%w: %w", ErrTooLarge, err)
	case errors.Is(err, funczip.ErrEmpty), errors.Is(err, funczip.ErrLink), errors.Is(err, funczip.ErrIrregular), errors.Is(err, funczip.ErrName):
		return fmt.Errorf("%w: %w", ErrPackage, err)
	}
	return err
}

// read returns the zip. It refuses one that changed since it was hashed.
func (p *Package) read() ([]byte, error) {
	data := make([]byte, p.Size)
	if _, err := io.ReadFull(io.NewSectionReader(p.file, 0, p.Size), data); err != nil {
		return nil, fmt.Errorf("reading the zip: %w", err)
	}
	if sum := sha256.Sum256(data); !bytes.Equal(sum[:], p.Checksum[:]) {
		return nil, fmt.Errorf("%w: the zip was changed meanwhile", ErrPackage)
	}
	return data, nil
}

// reader reads the zip from its beginning.
func (p *Package) reader() io.Reader { return io.NewSectionReader(p.file, 0, p.Size) }

// uploaded tells Progress.
func (p *Package) uploaded(done int64) {
	if p.Progress != nil {
		p.Progress(done, p.Size)
	}
}

// Close removes what Pack made.
func (p *Package) Close() error {
	err := p.file.Close()
	if p.temp {
		err = errors.Join(err, os.Remove(p.file.Name()))
	}
	return err
}
