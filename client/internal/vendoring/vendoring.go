package vendoring

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
)

// Sentinels.
var (
	// ErrRequirements: there is no requirements.txt, or it asks for nothing.
	ErrRequirements = errors.New("nothing to vendor")
	// ErrPip: there is no Python with pip.
	ErrPip = errors.New("pip is missing")
	// ErrInstall: pip failed.
	ErrInstall = errors.New("pip could not fetch the dependencies")
	// ErrTarget: the enclave's Python or platform is none that pip knows.
	ErrTarget = errors.New("unusable target")
	// ErrConflict: a dependency would overwrite the function's own file.
	ErrConflict = errors.New("dependency would overwrite a file of the function")
)

const (
	requirements = "requirements.txt"
	// ListFile names what was vendored, so that the next time can replace it.
	ListFile = "cape-vendor.txt"
	maxList  = 1 << 20
)

// Options say what to fetch for what.
type Options struct {
	// Dir is the deploy folder.
	Dir string
	// Target is the enclave's.
	Target Target
	// Run starts a program and waits for it; nil: the real one.
	Run Runner
	// Python is the interpreter whose pip is used; empty: python3 or python of the path.
	Python string
	// Bytecode compiles what was fetched, by a Python of the target's version that is here.
	Bytecode bool
	// Log takes what pip says.
	Log io.Writer
}

// Result says what was vendored.
type Result struct {
	// Entries are the top-level files and folders, sorted.
	Entries []string
	// Packages are "name==version", sorted.
	Packages []string
}

// Missing tells whether a deploy folder asks for dependencies and seems to hold none: neither
// what Vendor fetched nor what pip installs.
func Missing(dir string) bool {
	if checkRequirements(dir) != nil {
		return false
	}
	if _, err := os.Lstat(filepath.Join(dir, ListFile)); err == nil {
		return false
	}
	entries, err := os.ReadDir(dir)
	return err == nil && !slices.ContainsFunc(entries, func(e fs.DirEntry) bool { return strings.HasSuffix(e.Name(), ".dist-info") })
}

// Vendor fetches what requirements.txt of the folder asks for into the folder, in the
// place of what was vendored there before.
func Vendor(ctx context.Context, o Options) (*Result, error) {
	if err := o.Target.validate(); err != nil {
		return nil, err
	}
	if err := checkRequirements(o.Dir); err != nil {
		return nil, err
	}
	if o.Log == nil {
		o.Log = io.Discard
	}
	if o.Run == nil {
		o.Run = run
	}
	python, err := findPip(ctx, o)
	if err != nil {
		return nil, err
	}
	old, err := readList(o.Dir)
	if err != nil {
		return nil, err
	}
	// Within the folder, so that moving is renaming.
	temp, err := os.MkdirTemp(o.Dir, ".cape-vendor-*")
	if err != nil {
		return nil, err
	}
	defer os.RemoveAll(temp)
	site := filepath.Join(temp, "site")
	if err := install(ctx, o, python, site); err != nil {
		return nil, err
	}
	if _, err := os.Stat(site); err != nil {
		return nil, fmt.Errorf("%w: it left nothing behind", ErrInstall)
	}
	if err := strip(site); err != nil {
		return nil, err
	}
	if o.Bytecode {
		if err := addBytecode(ctx, o, python, site); err != nil {
			return nil, err
		}
	}
	result, err := inventory(site)
	if err != nil {
		return nil, err
	}
	return result, replace(o, old, result.Entries, site, temp)
}

func checkRequirements(dir string) error {
	data, err := os.ReadFile(filepath.Join(dir, requirements))
	if errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("%w: %s holds no %s", ErrRequirements, dir, requirements)
	}
	if err != nil {
		return err
	}
	for line := range bytes.Lines(data) {
		if line = bytes.TrimSpace(line); len(line) > 0 && line[0] != '#' {
			return nil
		}
	}
	return fmt.Errorf("%w: %s in %s asks for nothing", ErrRequirements, requirements, dir)
}

// strip removes what differs from machine to machine, or is of no use in an enclave:
// compiled files, scripts with the path of this machine's Python, records of both.
func strip(site string) error {
	if err := os.RemoveAll(filepath.Join(site, "bin")); err != nil {
		return err
	}
	return filepath.WalkDir(site, func(path string, d fs.DirEntry, err error) error {
		switch {
		case err != nil:
			return err
		case d.IsDir() && d.Name() == "__pycache__":
			if err := os.RemoveAll(path); err != nil {
				return err
			}
			return fs.SkipDir
		case d.IsDir():
			return nil
		case strings.HasSuffix(d.Name(), ".pyc"):
			return os.Remove(path)
		case strings.HasSuffix(filepath.Dir(path), ".dist-info") &&
			slices.Contains([]string{"RECORD", "INSTALLER", "REQUESTED", "direct_url.json"}, d.Name()):
			return os.Remove(path)
		}
		return nil
	})
}

func inventory(site string) (*Result, error) {
	entries, err := os.ReadDir(site)
	if err != nil {
		return nil, err
	}
	r := &Result{}
	for _, e := range entries {
		r.Entries = append(r.Entries, e.Name())
		if base, ok := strings.CutSuffix(e.Name(), ".dist-info"); ok {
			if i := strings.LastIndexByte(base, '-'); i > 0 {
				r.Packages = append(r.Packages, base[:i]+"=="+base[i+1:])
			}
		}
	}
	if len(r.Entries) == 0 {
		return nil, fmt.Errorf("%w: it left nothing behind", ErrInstall)
	}
	slices.Sort(r.Entries)
	slices.Sort(r.Packages)
	return r, nil
}

// replace moves the old entries away and the new ones in. The list names both until
// all is done, so that an interrupted call can be repeated.
func replace(o Options, old, entries []string, site, temp string) error {
	for _, name := range entries {
		if _, err := os.Lstat(filepath.Join(o.Dir, name)); err == nil && !slices.Contains(old, name) {
			return fmt.Errorf("%w: %s", ErrConflict, name)
		}
	}
	if err := writeList(o, append(slices.Clone(entries), old...)); err != nil {
		return err
	}
	attic := filepath.Join(temp, "old")
	if err := os.Mkdir(attic, 0o700); err != nil {
		return err
	}
	for _, name := range old {
		if err := os.Rename(filepath.Join(o.Dir, name), filepath.Join(attic, name)); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
	}
	for _, name := range entries {
		if err := os.Rename(filepath.Join(site, name), filepath.Join(o.Dir, name)); err != nil {
			return err
		}
	}
	return writeList(o, entries)
}

func readList(dir string) ([]string, error) {
	f, err := os.Open(filepath.Join(dir, ListFile))
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	defer f.Close()
	var names []string
	lines := bufio.NewScanner(io.LimitReader(f, maxList))
	for lines.Scan() {
		name := strings.TrimSpace(lines.Text())
		// Only plain names of things in the folder: the list may have been edited.
		if name == "" || name[0] == '#' || name != filepath.Base(name) || !filepath.IsLocal(name) || name == "." {
			continue
		}
		if name != requirements && name != "app.py" && name != ListFile {
			names = append(names, name)
		}
	}
	return names, lines.Err()
}

func writeList(o Options, names []string) error {
	names = slices.Compact(slices.Sorted(slices.Values(names)))
	text := fmt.Sprintf("# cape function vendor, for Python %s on %s. Do not edit: the next call replaces these.\n%s\n",
		o.Target.Python, o.Target.Platform, strings.Join(names, "\n"))
	return os.WriteFile(filepath.Join(o.Dir, ListFile), []byte(text), 0o644)
}
