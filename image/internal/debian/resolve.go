package debian

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/cape-functions/cape/image/internal/lock"
)

// ErrUnknown: the lists have no such package.
var ErrUnknown = errors.New("no such package")

// Newest pins the newest versions of the packages named, and of nothing else.
func (a *Apt) Newest(ctx context.Context, names []string) ([]lock.Package, error) {
	var all []lock.Package
	for _, name := range names {
		p, err := a.show(ctx, name, "")
		if err != nil {
			return nil, err
		}
		all = append(all, p)
	}
	return sorted(all), nil
}

// Closure pins the newest versions of the packages named and of all that they depend on.
func (a *Apt) Closure(ctx context.Context, names []string) ([]lock.Package, error) {
	out, err := a.run(ctx, a.dir, "apt-get", append([]string{"install", "--simulate", "--no-install-recommends"}, names...)...)
	if err != nil {
		return nil, err
	}
	var all []lock.Package
	for line := range strings.Lines(out) { // Inst name (version suite [arch])
		words := strings.Fields(line)
		if len(words) < 3 || words[0] != "Inst" {
			continue
		}
		p, err := a.show(ctx, words[1], strings.TrimPrefix(words[2], "("))
		if err != nil {
			return nil, err
		}
		all = append(all, p)
	}
	return sorted(all), nil
}

func sorted(all []lock.Package) []lock.Package {
	slices.SortFunc(all, func(x, y lock.Package) int { return strings.Compare(x.Name, y.Name) })
	return all
}

// show asks for one package; without a version, for the newest.
func (a *Apt) show(ctx context.Context, name, version string) (lock.Package, error) {
	what := name
	if version != "" {
		what += "=" + version
	}
	out, err := a.run(ctx, a.dir, "apt-cache", "show", "--no-all-versions", what)
	if err != nil {
		return lock.Package{}, fmt.Errorf("%w: %s: %w", ErrUnknown, what, err)
	}
	p, err := record(out)
	if err != nil || p.Name != name || version != "" && p.Version != version {
		return lock.Package{}, fmt.Errorf("%w: %s", ErrUnknown, what)
	}
	return p, nil
}

// record reads the first record of a list.
func record(text string) (lock.Package, error) {
	var p lock.Package
	for line := range strings.Lines(text) {
		key, value, _ := strings.Cut(strings.TrimSpace(line), ": ")
		switch key {
		case "":
			return p, errors.Join(p.UnmarshalText([]byte(p.Name + " " + p.Version + " " + p.Arch + " " + p.SHA256)))
		case "Package":
			p.Name = value
		case "Version":
			p.Version = value
		case "Architecture":
			p.Arch = value
		case "SHA256":
			p.SHA256 = value
		}
	}
	return p, p.UnmarshalText([]byte(p.Name + " " + p.Version + " " + p.Arch + " " + p.SHA256))
}
