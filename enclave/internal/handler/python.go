package handler

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"time"
)

// interpreter is what a Python said about itself.
type interpreter struct {
	Executable string
	Version    []int    // major, minor
	Platform   string   // sysconfig.get_platform()
	Prefixes   []string // where its parts live
	Libraries  []string // shared objects it has loaded
}

// question is run once, outside any jail, by an interpreter that is trusted as
// the runtime itself is: both are measured. In a virtual environment it names the interpreter
// that the environment was made from.
const question = `
import json, os, sys, sysconfig
exe = getattr(sys, "_base_executable", None) or sys.executable
libs = set()
try:
    with open("/proc/self/maps") as maps:
        for line in maps:
            path = line.split(None, 5)[5:]
            if path and path[0].startswith("/") and ".so" in path[0]:
                libs.add(path[0].strip())
except OSError:
    pass
print(json.dumps({
    "Executable": exe,
    "Version": list(sys.version_info[:2]),
    "Platform": sysconfig.get_platform(),
    "Prefixes": [sys.base_prefix, sys.base_exec_prefix, sysconfig.get_path("stdlib"), sysconfig.get_path("platstdlib"),
                 os.path.dirname(exe), os.path.dirname(os.path.realpath(exe))],
    "Libraries": sorted(libs),
}))
`

// flags keep everything but the standard library and the program itself away
// from an interpreter: no environment, no site packages, no bytecode written.
func flags() []string { return []string{"-I", "-S", "-B"} }

// maxAnswer bounds what the interpreter may say about itself.
const maxAnswer = 1 << 20

// ask runs the interpreter once.
func ask(python string) (*interpreter, error) {
	path, err := exec.LookPath(python)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrPython, err)
	}
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	defer cancel()
	cmd := exec.CommandContext(ctx, path, append(flags(), "-c", question)...)
	cmd.Env = []string{} // but for what a version manager's launcher scripts need
	for _, kv := range os.Environ() {
		name, _, _ := strings.Cut(kv, "=")
		if name == "PATH" || name == "HOME" || strings.HasPrefix(name, "PYENV_") {
			cmd.Env = append(cmd.Env, kv)
		}
	}
	cmd.WaitDelay = time.Second
	var out bytes.Buffer
	cmd.Stdout = &limitedBuffer{buf: &out, left: maxAnswer}
	if err := cmd.Run(); err != nil {
		return nil, fmt.Errorf("%w: asking %s where it lives: %w", ErrPython, path, err)
	}
	var i interpreter
	if err := json.Unmarshal(out.Bytes(), &i); err != nil {
		return nil, fmt.Errorf("%w: %s did not say where it lives", ErrPython, path)
	}
	return &i, i.validate()
}

func (i *interpreter) validate() error {
	if len(i.Version) != 2 || i.Version[0] != 3 || i.Version[1] < 9 {
		return fmt.Errorf("%w: version %v, but 3.9 or newer is needed", ErrPython, i.Version)
	}
	if !filepath.IsAbs(i.Executable) {
		return fmt.Errorf("%w: it does not know its own path", ErrPython)
	}
	return nil
}

// directories lists what a jail must show to run the interpreter. It refuses an
// interpreter that lives in a directory with much else, above all private.
func (i *interpreter) directories(private string) ([]string, error) {
	var dirs []string
	for _, d := range i.Prefixes {
		if filepath.IsAbs(d) {
			dirs = append(dirs, filepath.Clean(d))
		}
	}
	for _, lib := range i.Libraries {
		dirs = append(dirs, filepath.Dir(lib))
	}
	slices.Sort(dirs)
	dirs = slices.Compact(dirs)
	private, err := filepath.EvalSymlinks(private)
	if err != nil {
		return nil, err
	}
	var shown []string
	for _, d := range dirs {
		real, err := filepath.EvalSymlinks(d)
		if err != nil {
			continue // a path it would look in, but that is not there
		}
		if slices.Contains([]string{"/", "/root", "/home", "/etc", "/var", "/tmp", "/run", "/dev", "/proc", "/sys"}, real) ||
			private == real || strings.HasPrefix(private, real+"/") {
			return nil, fmt.Errorf("%w: it lives in %s, which holds what functions must not see; use one in a folder of its own", ErrPython, real)
		}
		shown = append(shown, d)
	}
	return shown, nil
}

// limitedBuffer refuses more than left bytes.
type limitedBuffer struct {
	buf  *bytes.Buffer
	left int
}

func (l *limitedBuffer) Write(p []byte) (int, error) {
	if len(p) > l.left {
		return 0, fmt.Errorf("more than %d bytes", maxAnswer)
	}
	l.left -= len(p)
	return l.buf.Write(p)
}
