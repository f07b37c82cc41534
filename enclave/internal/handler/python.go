package handler

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/cape-functions/cape/enclave/python"
)

// interpreter is what a Python said about itself.
type interpreter struct {
	Executable string
	Version    string   // "3.11"
	Platform   string   // as sysconfig.get_platform() has it
	Folders    []string // where its parts and the shared objects that it has loaded live
}

// flags keep everything but the standard library and the program itself away
// from an interpreter: no environment, no site packages, no bytecode written.
func flags() []string { return []string{"-I", "-S", "-B"} }

// ask runs the interpreter once, or reads in an image what it said when the image was made.
func ask(path, worker string) (*interpreter, error) {
	var out []byte
	var err error
	if worker != "" {
		out, err = os.ReadFile(filepath.Join(worker, python.Answer))
	} else {
		out, err = say(path)
	}
	if err != nil {
		return nil, fmt.Errorf("%w: asking %s where it lives: %w", ErrPython, path, err)
	}
	said := strings.Split(string(out), "\x00")
	if len(said) < 3 {
		return nil, fmt.Errorf("%w: %s did not say where it lives", ErrPython, path)
	}
	i := &interpreter{Executable: said[0], Version: said[1], Platform: said[2], Folders: said[3:]}
	return i, i.validate()
}

// say runs the question.
func say(path string) ([]byte, error) {
	path, err := exec.LookPath(path)
	if err != nil {
		return nil, err
	}
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	defer cancel()
	cmd := exec.CommandContext(ctx, path, append(flags(), "-c", python.Question)...)
	cmd.Env = []string{} // but for what a version manager's launcher scripts need
	for _, kv := range os.Environ() {
		name, _, _ := strings.Cut(kv, "=")
		if name == "PATH" || name == "HOME" || strings.HasPrefix(name, "PYENV_") {
			cmd.Env = append(cmd.Env, kv)
		}
	}
	cmd.WaitDelay = time.Second
	return cmd.Output()
}

func (i *interpreter) validate() error {
	minor, ok := strings.CutPrefix(i.Version, "3.")
	if n, err := strconv.Atoi(minor); !ok || err != nil || n < 9 {
		return fmt.Errorf("%w: version %s, but 3.9 or newer is needed", ErrPython, i.Version)
	}
	if !filepath.IsAbs(i.Executable) {
		return fmt.Errorf("%w: it does not know its own path", ErrPython)
	}
	return nil
}

// directories lists what a jail must show to run the interpreter. It refuses an
// interpreter that lives in a directory with much else, above all private.
func (i *interpreter) directories(private string) ([]string, error) {
	private, err := filepath.EvalSymlinks(private)
	if err != nil {
		return nil, err
	}
	var shown []string
	for _, d := range i.Folders {
		real, err := filepath.EvalSymlinks(d)
		if err != nil || !filepath.IsAbs(d) {
			continue // a path it would look in, but that is not there
		}
		if slices.Contains([]string{"/", "/root", "/home", "/etc", "/var", "/tmp", "/run", "/dev", "/proc", "/sys"}, real) ||
			private == real || strings.HasPrefix(private, real+"/") {
			return nil, fmt.Errorf("%w: it lives in %s, which holds what functions must not see; use one in a folder of its own", ErrPython, real)
		}
		shown = append(shown, filepath.Clean(d))
	}
	return shown, nil
}
