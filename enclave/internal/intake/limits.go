package intake

import (
	"errors"
	"fmt"
	"io"
	"math"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"github.com/cape-functions/cape/core/wire"
)

// configName is the optional file beside app.py in which a function asks for limits of its own.
const configName = "cape.toml"

// parse reads the value of a line of cape.toml.
func parse(name, value string) (n uint64, help string) {
	text, quoted := strings.CutPrefix(value, `"`)
	text, closed := strings.CutSuffix(text, `"`)
	if quoted != closed || !quoted && text != value {
		return 0, "a text ends as it begins"
	}
	var err error
	switch name {
	case "processes", "files":
		n, err = strconv.ParseUint(value, 10, 63)
		help = "a whole number"
	case "cpu":
		var f float64
		if f, err = strconv.ParseFloat(value, 64); !(f >= 0 && f <= wire.MaxHandlerCPU) { // NaN is neither
			err = strconv.ErrRange
		}
		n, help = uint64(f*1000), "a number of processors"
	case "time":
		var d time.Duration
		if d, err = time.ParseDuration(text); !quoted || d < 0 {
			err = strconv.ErrSyntax
		}
		n, help = uint64(d.Milliseconds()), `a text like "30s" or "2m"`
	default:
		shift := uint(0)
		for _, u := range units() {
			if digits, ok := strings.CutSuffix(text, u.name); ok && quoted {
				text, shift = strings.TrimSuffix(digits, " "), u.shift
			}
		}
		if n, err = strconv.ParseUint(text, 10, 63); quoted != (shift > 0) || n > math.MaxInt64>>shift {
			err = strconv.ErrSyntax
		}
		n, help = n<<shift, `a number of bytes, or a text like "512MiB" (KiB, MiB, GiB)`
	}
	if err != nil {
		return 0, help
	}
	return n, ""
}

// OwnLimits returns the limits of a function that has this cape.toml, nil for none, where an operator set l. It refuses, with an
// error that wraps ErrInvalid, what it does not know and what is above a ceiling. Of TOML it knows one table of one-line values.
func OwnLimits(text []byte, l wire.LimitsConfig) (wire.LimitsConfig, error) {
	if len(text) > wire.MaxFunctionConfig {
		return l, refuse("%s has %d bytes, at most %d are allowed", configName, len(text), wire.MaxFunctionConfig)
	}
	left := map[string]row{}
	for _, one := range rows(&l) {
		left[one.name] = one
	}
	table := false
	for line := range strings.Lines(string(text)) {
		line, _, _ = strings.Cut(line, "#") // no value holds one
		line = strings.TrimSpace(line)
		name, value, ok := strings.Cut(line, "=")
		name = strings.TrimSpace(name)
		one, known := left[name]
		switch {
		case line == "":
			continue
		case line == "[limits]" && !table:
			table = true
			continue
		case !ok || !table:
			return l, refuse("%s: %q stands where [limits] once, and below it lines such as cpu = 1 are expected", configName, line)
		case !known:
			return l, refuse("%s: %q is not known, or stands there twice; memory, disk, output, processes, files, cpu and time are", configName, name)
		}
		delete(left, name)
		n, help := parse(name, strings.TrimSpace(value))
		if help != "" {
			return l, refuse("%s: %q: %s is expected", configName, line, help)
		}
		most := one.ceiling
		if *one.limit < one.usual {
			most = *one.limit
		}
		if least := min(one.floor, most); n == 0 || n < least || n > most {
			return l, refuse("%s: %s must be at least %s, and at most %s here", configName, name, inUnits(name, least), inUnits(name, most))
		}
		*one.limit = n
	}
	return l, nil
}

// Floors are what the jail and an empty function need: with less every call would fail.
const (
	minMemory = 32 << 20
	minFiles  = 16
)

// row is one limit: where it stands, the least that is of use, its default, below which an operator's limit is the ceiling,
// and the ceiling otherwise.
type row struct {
	name                  string
	limit                 *uint64
	floor, usual, ceiling uint64
}

func rows(l *wire.LimitsConfig) []row {
	d := wire.DefaultLimits()
	return []row{
		{"memory", &l.Memory, minMemory, d.Memory, wire.MaxHandlerMemory},
		{"disk", &l.Scratch, 1, d.Scratch, wire.MaxHandlerScratch},
		{"processes", &l.Procs, 1, d.Procs, wire.MaxHandlerProcs},
		{"files", &l.Files, minFiles, d.Files, wire.MaxHandlerFiles},
		{"cpu", &l.CPU, 1, d.CPU, wire.MaxHandlerCPU},
		{"time", &l.CallMS, 1, d.CallMS, uint64(wire.MaxHandlerCall.Milliseconds())},
		{"output", &l.Output, 1, d.Output, wire.MaxOutput},
	}
}

type unit struct {
	name  string
	shift uint
}

func units() []unit { return []unit{{"GiB", 30}, {"MiB", 20}, {"KiB", 10}} }

// inUnits writes a limit as cape.toml would.
func inUnits(name string, n uint64) string {
	switch name {
	case "processes", "files":
		return strconv.FormatUint(n, 10)
	case "cpu":
		return fmt.Sprintf("%g", float64(n)/1000)
	case "time":
		return (time.Duration(n) * time.Millisecond).String()
	}
	for _, u := range units() {
		if n>>u.shift > 0 && n&(1<<u.shift-1) == 0 {
			return strconv.FormatUint(n>>u.shift, 10) + u.name
		}
	}
	return strconv.FormatUint(n, 10)
}

// Describe writes limits on a line, for the function's owner.
func Describe(l wire.LimitsConfig) string {
	var all []string
	for _, one := range rows(&l) {
		all = append(all, one.name+" "+inUnits(one.name, *one.limit))
	}
	return strings.Join(all, ", ")
}

// ReadLimits is OwnLimits for the unpacked function whose app.py lies in folder.
func ReadLimits(folder string, l wire.LimitsConfig) (wire.LimitsConfig, error) {
	f, err := os.Open(filepath.Join(folder, configName))
	if errors.Is(err, os.ErrNotExist) {
		return l, nil
	}
	var text []byte
	if err == nil {
		defer f.Close()
		text, err = io.ReadAll(io.LimitReader(f, wire.MaxFunctionConfig+1))
	}
	if err != nil {
		return l, fmt.Errorf("reading %s: %w", configName, err)
	}
	return OwnLimits(text, l)
}
