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
	found, err := a.show(ctx, names)
	if err != nil {
		return nil, err
	}
	for _, name := range names {
		if !slices.ContainsFunc(found, func(p lock.Package) bool { return p.Name == name }) {
			return nil, fmt.Errorf("%w: %s", ErrUnknown, name)
		}
	}
	return found, nil
}

// Closure pins the newest versions of the packages named and of all that they depend on.
func (a *Apt) Closure(ctx context.Context, names []string) ([]lock.Package, error) {
	out, err := a.run(ctx, a.dir, "apt-get", append([]string{"install", "--simulate", "--no-install-recommends"}, names...)...)
	if err != nil {
		return nil, err
	}
	var all []string
	for line := range strings.Lines(out) { // Inst name (version suite [arch])
		if words := strings.Fields(line); len(words) > 2 && words[0] == "Inst" {
			all = append(all, words[1]+"="+strings.TrimPrefix(words[2], "("))
		}
	}
	found, err := a.show(ctx, all)
	if err == nil && len(found) != len(all) {
		err = fmt.Errorf("%w: the lists describe %d of %d packages", ErrUnknown, len(found), len(all))
	}
	return found, err
}

// show asks for packages, by name or name=version, and returns those that the lists have, sorted by name.
func (a *Apt) show(ctx context.Context, what []string) ([]lock.Package, error) {
	out, err := a.run(ctx, a.dir, "apt-cache", append([]string{"show", "--no-all-versions"}, what...)...)
	if err != nil {
		return nil, err
	}
	return records(out)
}

// records reads a list of packages: paragraphs of fields.
func records(text string) ([]lock.Package, error) {
	var all []lock.Package
	for paragraph := range strings.SplitSeq(text, "\n\n") {
		if strings.TrimSpace(paragraph) == "" {
			continue
		}
		p, err := record(paragraph)
		if err != nil {
			return nil, err
		}
		all = append(all, p)
	}
	slices.SortFunc(all, func(x, y lock.Package) int { return strings.Compare(x.Name, y.Name) })
	return all, nil
}

func record(paragraph string) (lock.Package, error) {
	var p lock.Package
	for line := range strings.Lines(paragraph) {
		if strings.HasPrefix(line, " ") {
			continue // more of a field that we do not read
		}
		key, value, _ := strings.Cut(strings.TrimSpace(line), ": ")
		switch key {
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
	return p, valid(p)
}

// valid says whether the lock file can hold a package.
func valid(p lock.Package) error {
	text, err := p.MarshalText()
	if err != nil {
		return err
	}
	return p.UnmarshalText(text)
}
