// Package lock reads and writes the file that pins every input of the image, and what its measured parts must come out as.
package lock

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"time"
)

// maxSize bounds the file: some hundred packages are 20 KiB.
const maxSize = 1 << 20

// ErrInvalid: the file is not a lock file of this project.
var ErrInvalid = errors.New("invalid lock file")

// Lock is the file.
type Lock struct {
	Renewed   time.Time `json:"renewed"` // when make image-lock ran; the only date that what is built tells
	Go        string    `json:"go"`      // the toolchain that compiles the runtimes: "go1.26.8"
	Source    Package   `json:"source"`  // Debian's package of the kernel's source
	Kernel    string    `json:"kernel"`  // SHA-256 of the kernel, hex
	Base      string    `json:"base"`    // SHA-256 of the base ramdisk, hex
	Packages  []Package `json:"packages"`
	Toolchain []Package `json:"toolchain"` // what compiles the kernel
}

// Package is one binary package of Debian. In the file it is a line of text: name, version, architecture, SHA-256 in hex.
type Package struct {
	Name, Version, Arch, SHA256 string
}

var fields = []*regexp.Regexp{
	regexp.MustCompile(`^[a-z0-9][a-z0-9+.-]+$`),
	regexp.MustCompile(`^[0-9][A-Za-z0-9.+~:-]*$`),
	regexp.MustCompile(`^(amd64|all)$`),
	digest,
}

var (
	digest = regexp.MustCompile(`^[0-9a-f]{64}$`)
	goName = regexp.MustCompile(`^go1\.[0-9]+(\.[0-9]+)?$`)
)

// MarshalText returns the line.
func (p Package) MarshalText() ([]byte, error) {
	return []byte(strings.Join([]string{p.Name, p.Version, p.Arch, p.SHA256}, " ")), nil
}

// UnmarshalText reads the line.
func (p *Package) UnmarshalText(text []byte) error {
	parts := strings.Split(string(text), " ")
	if len(parts) != len(fields) {
		return fmt.Errorf("%w: a package is four words, not %q", ErrInvalid, text)
	}
	for i, f := range fields {
		if !f.MatchString(parts[i]) {
			return fmt.Errorf("%w: %q in package %q", ErrInvalid, parts[i], text)
		}
	}
	p.Name, p.Version, p.Arch, p.SHA256 = parts[0], parts[1], parts[2], parts[3]
	return nil
}

// Read reads a file. Errors: ErrInvalid, those of the file system.
func Read(path string) (*Lock, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	data, err := io.ReadAll(io.LimitReader(f, maxSize+1))
	if err != nil {
		return nil, err
	}
	l, err := parse(data)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	return l, nil
}

func parse(data []byte) (*Lock, error) {
	if len(data) > maxSize {
		return nil, fmt.Errorf("%w: more than %d bytes", ErrInvalid, maxSize)
	}
	var l Lock
	dec := json.NewDecoder(bytes.NewReader(data))
	dec.DisallowUnknownFields()
	if err := dec.Decode(&l); err != nil {
		return nil, fmt.Errorf("%w: %w", ErrInvalid, err)
	}
	if _, err := dec.Token(); !errors.Is(err, io.EOF) {
		return nil, fmt.Errorf("%w: something follows the object", ErrInvalid)
	}
	return &l, l.validate()
}

func (l *Lock) validate() error {
	switch {
	case l.Renewed.IsZero():
		return fmt.Errorf("%w: no date", ErrInvalid)
	case !goName.MatchString(l.Go):
		return fmt.Errorf("%w: %q is no version of Go", ErrInvalid, l.Go)
	case l.Source.Name == "":
		return fmt.Errorf("%w: no source of the kernel", ErrInvalid)
	case !digest.MatchString(l.Kernel) || !digest.MatchString(l.Base):
		return fmt.Errorf("%w: kernel and base must be SHA-256 in hex", ErrInvalid)
	case len(l.Packages) == 0 || len(l.Toolchain) == 0:
		return fmt.Errorf("%w: no packages", ErrInvalid)
	}
	for _, set := range [][]Package{l.Packages, l.Toolchain} {
		seen := map[string]bool{}
		for _, p := range set {
			if seen[p.Name] {
				return fmt.Errorf("%w: package %s stands in it twice", ErrInvalid, p.Name)
			}
			seen[p.Name] = true
		}
	}
	return nil
}

// Write replaces a file whole.
func (l *Lock) Write(path string) error {
	if err := l.validate(); err != nil {
		return err
	}
	data, err := json.MarshalIndent(l, "", "  ")
	if err != nil {
		return err
	}
	tmp, err := os.CreateTemp(filepath.Dir(path), ".lock-*")
	if err != nil {
		return err
	}
	defer os.Remove(tmp.Name())
	_, err = tmp.Write(append(data, '\n'))
	if err = errors.Join(err, tmp.Chmod(0o644), tmp.Close()); err != nil {
		return err
	}
	return os.Rename(tmp.Name(), path)
}
