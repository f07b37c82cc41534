// Package kernel builds the enclave's kernel from Debian's source by Debian's compiler, in a room of its own.
package kernel

import (
	"errors"
	"fmt"
	"slices"
	"strings"
)

// ErrConfig: the resolved configuration is not the one that was asked for.
var ErrConfig = errors.New("the kernel's configuration lost options")

// parseConfig reads the form of .config: what each option is set to. "n" stands for an option that is not set.
func parseConfig(text string) (map[string]string, error) {
	options := map[string]string{}
	for line := range strings.Lines(text) {
		line = strings.TrimSpace(line)
		name, value, set := strings.Cut(line, "=")
		if off, ok := strings.CutSuffix(line, " is not set"); ok {
			name, value, set = strings.TrimPrefix(off, "# "), "n", true
		}
		switch {
		case line == "" || strings.HasPrefix(line, "#") && !strings.HasPrefix(name, "CONFIG_"):
			continue
		case !set || !strings.HasPrefix(name, "CONFIG_"):
			return nil, fmt.Errorf("%w: %q is no option", ErrConfig, line)
		}
		if _, twice := options[name]; twice {
			return nil, fmt.Errorf("%w: %s stands there twice", ErrConfig, name)
		}
		options[name] = value
	}
	return options, nil
}

// checkConfig compares what was asked for with what came out, and names every option that differs. An option that does
// not exist in the result is not set.
func checkConfig(asked, resolved string) error {
	want, err := parseConfig(asked)
	if err != nil {
		return err
	}
	got, err := parseConfig(resolved)
	if err != nil {
		return err
	}
	if len(want) == 0 || len(got) == 0 {
		return fmt.Errorf("%w: there are none", ErrConfig)
	}
	var lost []string
	for name, value := range want {
		if is := got[name]; is != value && !(is == "" && value == "n") {
			lost = append(lost, fmt.Sprintf("%s should be %s, is %q", name, value, is))
		}
	}
	slices.Sort(lost)
	if len(lost) > 0 {
		return fmt.Errorf("%w: %s", ErrConfig, strings.Join(lost, "; "))
	}
	return nil
}
