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

	"github.com/BurntSushi/toml"

	"github.com/cape-functions/cape/core/wire"
)

// configName is the optional file beside app.py in which a function asks for limits of its own.
const configName = "cape.toml"

// asked is what cape.toml may say; nil stands for the default.
type asked struct {
	Limits struct {
		Memory    *size    `toml:"memory"`
		Disk      *size    `toml:"disk"`
		Output    *size    `toml:"output"`
		Processes *int64   `toml:"processes"`
		Files     *int64   `toml:"files"`
		CPU       *float64 `toml:"cpu"`
		Time      *period  `toml:"time"`
	} `toml:"limits"`
}

// known are the keys of cape.toml, spelt as they must be.
const known = " limits limits.memory limits.disk limits.output limits.processes limits.files limits.cpu limits.time "

// size is a number of bytes: 1048576, or "1MiB".
type size uint64

// UnmarshalTOML implements toml.Unmarshaler.
func (s *size) UnmarshalTOML(v any) error {
	switch v := v.(type) {
	case int64:
		*s = size(max(v, 0))
		return nil
	case string:
		for unit, shift := range map[string]uint{"KiB": 10, "MiB": 20, "GiB": 30} {
			digits, found := strings.CutSuffix(v, unit)
			n, err := strconv.ParseUint(strings.TrimSuffix(digits, " "), 10, 33)
			if found && err == nil && n <= math.MaxInt64>>shift {
				*s = size(n << shift)
				return nil
			}
		}
	}
	return errors.New(`a size is a number of bytes, or a text like "512MiB" (KiB, MiB, GiB)`)
}

// period is a time: "30s", "2m".
type period time.Duration

// UnmarshalTOML implements toml.Unmarshaler.
func (p *period) UnmarshalTOML(v any) error {
	text, ok := v.(string)
	d, err := time.ParseDuration(text)
	if !ok || err != nil {
		return errors.New(`a time is a text like "30s" or "2m"`)
	}
	*p = period(d)
	return nil
}

// plainTOML refuses, before anything is made of it, nested names and values: the file has no use for them, and each level
// costs a copy of all above it.
func plainTOML(text string) error {
	const line, dots, brackets = 200, 3, 4
	for number, l := range strings.Split(text, "\n") {
		body, _, _ := strings.Cut(l, "#")
		if len(body) > line || strings.Count(body, ".") > dots || strings.Count(body, "[")+strings.Count(body, "{") > brackets {
			return refuse("%s: line %d is longer, or goes deeper, than any limit needs", configName, number+1)
		}
	}
	return nil
}

// OwnLimits returns the limits of a function that has this cape.toml, nil for none, where an operator set l. It refuses, with an
// error that wraps ErrInvalid, what it does not know and what is above a ceiling.
func OwnLimits(text []byte, l wire.LimitsConfig) (wire.LimitsConfig, error) {
	if len(text) > wire.MaxFunctionConfig {
		return l, refuse("%s has %d bytes, at most %d are allowed", configName, len(text), wire.MaxFunctionConfig)
	}
	if err := plainTOML(string(text)); err != nil {
		return l, err
	}
	var f asked
	read, err := toml.Decode(string(text), &f)
	if err != nil {
		return l, refuse("%s: %.300s", configName, err)
	}
	for _, key := range read.Keys() {
		if !strings.Contains(known, " "+key.String()+" ") {
			return l, refuse("%s: %s is not known; a [limits] table with memory, disk, output, processes, files, cpu and time is", configName, key)
		}
	}
	values, err := f.values()
	if err != nil {
		return l, err
	}
	for _, one := range rows(&l) {
		value, ok := values[one.name]
		if !ok {
			continue
		}
		most := one.ceiling
		if *one.limit < one.usual {
			most = *one.limit
		}
		if least := min(one.floor, most); value <= 0 || uint64(value) < least || uint64(value) > most {
			return l, refuse("%s: %s must be at least %s, and at most %s here", configName, one.name, inUnits(one.name, least), inUnits(one.name, most))
		}
		*one.limit = uint64(value)
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

// values are the limits that were asked for, by name.
func (f *asked) values() (map[string]int64, error) {
	v, a := map[string]int64{}, f.Limits
	for name, s := range map[string]*size{"memory": a.Memory, "disk": a.Disk, "output": a.Output} {
		if s != nil {
			v[name] = int64(min(*s, math.MaxInt64))
		}
	}
	for name, n := range map[string]*int64{"processes": a.Processes, "files": a.Files} {
		if n != nil {
			v[name] = *n
		}
	}
	if a.CPU != nil {
		if !(*a.CPU >= 0 && *a.CPU <= wire.MaxHandlerCPU) { // NaN is neither
			return nil, refuse("%s: cpu is a number of processors", configName)
		}
		v["cpu"] = int64(*a.CPU * 1000)
	}
	if a.Time != nil {
		v["time"] = time.Duration(*a.Time).Milliseconds()
	}
	return v, nil
}

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
	for _, u := range []struct {
		name  string
		shift uint
	}{{"GiB", 30}, {"MiB", 20}, {"KiB", 10}} {
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
	if err != nil {
		return l, fmt.Errorf("reading %s: %w", configName, err)
	}
	defer f.Close()
	text, err := io.ReadAll(io.LimitReader(f, wire.MaxFunctionConfig+1))
	if err != nil {
		return l, fmt.Errorf("reading %s: %w", configName, err)
	}
	return OwnLimits(text, l)
}
