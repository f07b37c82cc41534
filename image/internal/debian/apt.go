// Package debian fetches Debian's packages by apt's ordinary client, finds out versions and digests for the lock file, and
// takes packages apart. It uses the machine's apt with lists and settings of its own: the machine's are left alone, but
// for its proxies.
package debian

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"

	"github.com/cape-functions/cape/image/internal/lock"
)

// Errors that callers test.
var (
	// ErrNoApt: this machine has no apt.
	ErrNoApt = errors.New("fetching packages needs apt-get, dpkg-deb and debian-archive-keyring (on another system: build in a Debian container)")
	// ErrGone: the mirror has a package no longer.
	ErrGone = errors.New("the mirror has these no longer, newer ones took their place: make image-lock renews image/lock.json")
	// ErrDiffers: what was fetched is not what the lock file names.
	ErrDiffers = errors.New("a package is not the one in image/lock.json")
)

// Sources are the lists that packages come from.
type Sources struct {
	Mirror, Security string // addresses
	Suite            string // "bookworm"
}

const keyring = "/usr/share/keyrings/debian-archive-keyring.gpg"

func (s Sources) list() string {
	line := "deb [arch=amd64 signed-by=" + keyring + "] %s %s main\n"
	return fmt.Sprintf(line+line+line, s.Mirror, s.Suite, s.Mirror, s.Suite+"-updates", s.Security, s.Suite+"-security")
}

// Apt is apt with state of its own in one directory.
type Apt struct{ dir string }

// New makes apt's state in dir and has it read the lists. Errors: ErrNoApt, what apt said.
func New(ctx context.Context, dir string, sources Sources) (*Apt, error) {
	for _, program := range []string{"apt-get", "apt-cache", "dpkg-deb"} {
		if _, err := exec.LookPath(program); err != nil {
			return nil, fmt.Errorf("%w: %w", ErrNoApt, err)
		}
	}
	if _, err := os.Stat(keyring); err != nil {
		return nil, fmt.Errorf("%w: %w", ErrNoApt, err)
	}
	a := &Apt{dir: dir}
	for _, sub := range []string{"lists/partial", "archives/partial", "cache", "none"} {
		if err := os.MkdirAll(filepath.Join(dir, sub), 0o755); err != nil {
			return nil, err
		}
	}
	list, status := filepath.Join(dir, "sources.list"), filepath.Join(dir, "status")
	if err := errors.Join(os.WriteFile(list, []byte(sources.list()), 0o644), os.WriteFile(status, nil, 0o644)); err != nil {
		return nil, err
	}
	if _, err := a.run(ctx, dir, "apt-get", "update", "--error-on=any"); err != nil {
		return nil, fmt.Errorf("reading the lists of %s: %w", sources.Mirror, err)
	}
	return a, nil
}

// run runs one of apt's programs in a directory and returns what it printed.
func (a *Apt) run(ctx context.Context, dir, program string, args ...string) (string, error) {
	options := []string{"-q"}
	for name, value := range map[string]string{
		"Dir::Etc::sourcelist":        filepath.Join(a.dir, "sources.list"),
		"Dir::Etc::sourceparts":       filepath.Join(a.dir, "none"),
		"Dir::Etc::preferencesparts":  filepath.Join(a.dir, "none"),
		"Dir::Etc::preferences":       filepath.Join(a.dir, "none", "preferences"),
		"Dir::State::lists":           filepath.Join(a.dir, "lists"),
		"Dir::State::status":          filepath.Join(a.dir, "status"),
		"Dir::State::extended_states": filepath.Join(a.dir, "extended_states"),
		"Dir::Cache":                  filepath.Join(a.dir, "cache"),
		"Dir::Cache::archives":        filepath.Join(a.dir, "archives"),
		"APT::Architecture":           "amd64",
		"APT::Architectures":          "amd64",
		"APT::Install-Recommends":     "0",
		"APT::Sandbox::User":          "root", // the directory may be one that _apt cannot enter
		"Acquire::Languages":          "none",
		"Acquire::Retries":            "3",
		"Debug::NoLocking":            "1",
		// Whatever the machine's own settings allow: what a list says is pinned, so it must be signed.
		"Acquire::AllowInsecureRepositories":            "0",
		"Acquire::AllowWeakRepositories":                "0",
		"Acquire::AllowDowngradeToInsecureRepositories": "0",
		"APT::Get::AllowUnauthenticated":                "0",
	} {
		options = append(options, "-o", name+"="+value)
	}
	cmd := exec.CommandContext(ctx, program, append(options, args...)...)
	cmd.Dir = dir
	cmd.Env = append(os.Environ(), "LC_ALL=C", "DEBIAN_FRONTEND=noninteractive")
	var out, errs bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &errs
	if err := cmd.Run(); err != nil {
		return "", fmt.Errorf("%s %s: %w\n%s", program, args[0], err, strings.TrimSpace(errs.String()))
	}
	return out.String(), nil
}

// Fetch downloads packages into dir, as SHA256.deb. Errors: ErrGone with the packages' names, ErrDiffers.
func (a *Apt) Fetch(ctx context.Context, dir string, packages []lock.Package) error {
	tmp, err := os.MkdirTemp(dir, ".fetch-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(tmp)
	args := []string{"download"}
	for _, p := range packages {
		args = append(args, p.Name+"="+p.Version)
	}
	if _, err := a.run(ctx, tmp, "apt-get", args...); err != nil {
		if gone := a.gone(ctx, packages); len(gone) > 0 {
			return fmt.Errorf("%w: %s", ErrGone, strings.Join(gone, ", "))
		}
		return err
	}
	files, err := filepath.Glob(filepath.Join(tmp, "*.deb"))
	if err != nil {
		return err
	}
	found := map[string]string{}
	for _, f := range files {
		sum, err := digest(f)
		if err != nil {
			return err
		}
		found[sum] = f
	}
	for _, p := range packages {
		f, ok := found[p.SHA256]
		if !ok {
			return fmt.Errorf("%w: %s %s should have SHA-256 %s", ErrDiffers, p.Name, p.Version, p.SHA256)
		}
		if err := os.Rename(f, File(dir, p)); err != nil {
			return err
		}
	}
	return nil
}

// gone names the packages whose version the lists do not have.
func (a *Apt) gone(ctx context.Context, packages []lock.Package) []string {
	var all, names []string
	for _, p := range packages {
		all = append(all, p.Name+"="+p.Version)
	}
	found, err := a.show(ctx, all)
	if err != nil {
		return nil // what apt said before tells more
	}
	for _, p := range packages {
		if !slices.ContainsFunc(found, func(f lock.Package) bool { return f.Name == p.Name && f.Version == p.Version }) {
			names = append(names, p.Name+" "+p.Version)
		}
	}
	return names
}

// File is where Fetch put a package.
func File(dir string, p lock.Package) string { return filepath.Join(dir, p.SHA256+".deb") }

// Missing returns the packages that are not in dir. What is there is read again: a cache that somebody changed is
// no input of an image.
func Missing(dir string, packages []lock.Package) ([]lock.Package, error) {
	var missing []lock.Package
	for _, p := range packages {
		sum, err := digest(File(dir, p))
		if err != nil && !errors.Is(err, os.ErrNotExist) {
			return nil, err
		}
		if sum != p.SHA256 {
			missing = append(missing, p)
		}
	}
	return missing, nil
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
