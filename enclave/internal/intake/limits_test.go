package intake

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/cape-functions/cape/core/wire"
)

func TestOwnLimits(t *testing.T) {
	d := wire.DefaultLimits()
	with := func(change func(*wire.LimitsConfig)) wire.LimitsConfig {
		l := d
		change(&l)
		return l
	}
	for _, c := range []struct {
		text string
		want wire.LimitsConfig
	}{
		{"", d},
		{"# nothing\n[limits]\n", d},
		{"[limits]\nmemory = \"512MiB\"\n", with(func(l *wire.LimitsConfig) { l.Memory = 512 << 20 })},
		{"[limits]\nmemory = \"16 GiB\"\n", with(func(l *wire.LimitsConfig) { l.Memory = wire.MaxHandlerMemory })},
		{"[limits]\nmemory = 33554432\nfiles = 16\ndisk = \"64KiB\"\noutput = 1\n", with(func(l *wire.LimitsConfig) { l.Memory, l.Files, l.Scratch, l.Output = 32<<20, 16, 64<<10, 1 })},
		{" [limits] # of this function\r\n\r\n  processes=1\r\nfiles = 4096 # many\ncpu = 0.5\ntime = \"1m30s\"", with(func(l *wire.LimitsConfig) { l.Procs, l.Files, l.CPU, l.CallMS = 1, 4096, 500, 90_000 })},
		{"[limits]\ncpu = 64\n", with(func(l *wire.LimitsConfig) { l.CPU = 64_000 })},
	} {
		got, err := OwnLimits([]byte(c.text), d)
		if diff := cmp.Diff(c.want, got); err != nil || diff != "" {
			t.Errorf("%q: %v\n%s", c.text, err, diff)
		}
	}
}

func TestOwnLimitsRefuses(t *testing.T) {
	low := wire.DefaultLimits()
	low.Memory, low.CallMS = 64<<20, 1000
	for name, text := range map[string]string{
		"no TOML":            "limits",
		"no table":           "limits = 3",
		"another table":      "[limit]\nmemory = 1\n",
		"a key beside":       "memory = 1\n",
		"unknown key":        "[limits]\nmemry = 1\n",
		"key of other case":  "[limits]\nMemory = 1\n",
		"key below":          "[limits.memory]\nx = 1\n",
		"twice":              "[limits]\nfiles = 1\nfiles = 2\n",
		"zero":               "[limits]\nfiles = 0\n",
		"negative":           "[limits]\nprocesses = -1\n",
		"negative size":      "[limits]\ndisk = -1\n",
		"no number":          "[limits]\nfiles = \"many\"\n",
		"fraction":           "[limits]\nfiles = 1.5\n",
		"unknown unit":       "[limits]\ndisk = \"1MB\"\n",
		"no digits":          "[limits]\ndisk = \"MiB\"\n",
		"overflow":           "[limits]\ndisk = \"8589934591GiB\"\n",
		"size of a fraction": "[limits]\ndisk = 1.5\n",
		"not a number":       "[limits]\ncpu = nan\n",
		"no end":             "[limits]\ncpu = inf\n",
		"nothing of a cpu":   "[limits]\ncpu = 0.0001\n",
		"time of a number":   "[limits]\ntime = 30\n",
		"no time":            "[limits]\ntime = \"soon\"\n",
		"too long":           "[limits]\ntime = \"11m\"\n",
		"below memory":       "[limits]\nmemory = \"32767KiB\"\n",
		"a byte of memory":   "[limits]\nmemory = 1\n",
		"below files":        "[limits]\nfiles = 15\n",
		"above memory":       "[limits]\nmemory = \"17GiB\"\n",
		"above files":        "[limits]\nfiles = 4097\n",
		"above processes":    "[limits]\nprocesses = 513\n",
		"above output":       "[limits]\noutput = 1073741825\n",
		"deep name":          strings.Repeat("a.", 90) + "a=1",
		"long line":          strings.Repeat("a", 300) + "=1",
		"deep value":         "a = [[[[[[[1]]]]]]]",
		"two tables":         "[limits]\n[limits]\n",
		"before the table":   "files = 20\n[limits]\n",
		"no end of a text":   "[limits]\ntime = \"30s\n",
		"no beginning":       "[limits]\ntime = 30s\"\n",
		"quoted number":      "[limits]\nfiles = \"20\"\n",
		"quoted bytes":       "[limits]\ndisk = \"1048576\"\n",
		"unit without text":  "[limits]\ndisk = 1MiB\n",
		"escape":             "[limits]\ntime = \"3\\u0030s\"\n",
		"too large":          strings.Repeat("#", wire.MaxFunctionConfig+1),
	} {
		if got, err := OwnLimits([]byte(text), wire.DefaultLimits()); !errors.Is(err, ErrInvalid) {
			t.Errorf("%s: %+v, %v", name, got, err)
		}
	}
	for _, text := range []string{"[limits]\nmemory = \"65MiB\"\n", "[limits]\ntime = \"2s\"\n"} {
		if got, err := OwnLimits([]byte(text), low); !errors.Is(err, ErrInvalid) {
			t.Errorf("above what the operator allows: %+v, %v", got, err)
		}
	}
}

// TestCheckReadsLimits: cape.toml is judged when a function is deployed.
func TestCheckReadsLimits(t *testing.T) {
	for text, ok := range map[string]bool{"[limits]\nmemory = \"64MiB\"\n": true, "[limits]\nmemory = \"1MiB\"\n": false, "[limits]\nmemory = 0\n": false, strings.Repeat("#", wire.MaxFunctionConfig+1): false} {
		zip := pack(t, item{name: "fn/app.py", data: app}, item{name: "fn/cape.toml", data: text}, item{name: "fn/sub/cape.toml", data: "not ours"})
		if _, err := Check(t.Context(), strings.NewReader(string(zip)), int64(len(zip)), rules(), accept); (err == nil) != ok || err != nil && !errors.Is(err, ErrInvalid) {
			t.Errorf("%.30q: %v", text, err)
		}
	}
}

func TestReadLimits(t *testing.T) {
	dir, d := t.TempDir(), wire.DefaultLimits()
	if got, err := ReadLimits(dir, d); err != nil || got != d {
		t.Errorf("without a file: %+v, %v", got, err)
	}
	if err := os.WriteFile(filepath.Join(dir, configName), []byte("[limits]\ntime = \"2s\"\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	if got, err := ReadLimits(dir, d); err != nil || got.CallMS != uint64((2*time.Second).Milliseconds()) {
		t.Errorf("%+v, %v", got, err)
	}
	if got, want := Describe(d), "memory 2GiB, disk 1GiB, processes 64, files 1024, cpu 4, time 1m0s, output 1GiB"; got != want {
		t.Errorf("%q", got)
	}
}

// FuzzOwnLimits: whatever a function asks for, it gets no more than the ceilings.
func FuzzOwnLimits(f *testing.F) {
	f.Add([]byte("[limits]\nmemory = \"512MiB\"\ncpu = 1.5\ntime = \"30s\"\nfiles = 9\n"))
	f.Add([]byte("limits = { processes = 1 }\n"))
	f.Add([]byte("[limits]\ncpu = nan\n"))
	f.Fuzz(func(t *testing.T, text []byte) {
		l, err := OwnLimits(text, wire.DefaultLimits())
		if err != nil {
			if !errors.Is(err, ErrInvalid) {
				t.Errorf("%v", err)
			}
			return
		}
		for _, r := range rows(&l) {
			if *r.limit == 0 || *r.limit > r.ceiling {
				t.Errorf("%s is %d", r.name, *r.limit)
			}
		}
	})
}
