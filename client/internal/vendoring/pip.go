package vendoring

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"time"
)

// Target is a Python on a platform.
type Target struct {
	// Python is "3.11".
	Python string
	// Platform is the form of sysconfig.get_platform: "linux-x86_64".
	Platform string
}

var (
	pythonForm   = regexp.MustCompile(`^3\.[0-9]{1,2}$`)
	platformForm = regexp.MustCompile(`^[a-z0-9]+[a-z0-9_.-]{0,60}$`)
)

// validate refuses what could be anything but arguments: both come from a server.
func (t Target) validate() error {
	if !pythonForm.MatchString(t.Python) {
		return fmt.Errorf("%w: %.40q is not a version of Python such as 3.11", ErrTarget, t.Python)
	}
	if !platformForm.MatchString(t.Platform) {
		return fmt.Errorf("%w: %.40q is not a platform such as linux-x86_64", ErrTarget, t.Platform)
	}
	return nil
}

// newestGlibc is the newest glibc 2.x that wheels may ask for: that of the oldest
// system with a Python that enclaves use.
const newestGlibc = 28

// tags returns pip's platform tags, the best first.
func (t Target) tags() []string {
	arch, linux := strings.CutPrefix(t.Platform, "linux-")
	if !linux {
		return []string{strings.NewReplacer("-", "_", ".", "_").Replace(t.Platform)}
	}
	var tags []string
	for minor := newestGlibc; minor >= 17; minor-- {
		tags = append(tags, fmt.Sprintf("manylinux_2_%d_%s", minor, arch))
	}
	tags = append(tags, "manylinux2014_"+arch)
	if arch == "x86_64" {
		tags = append(tags, "manylinux_2_12_x86_64", "manylinux2010_x86_64", "manylinux_2_5_x86_64", "manylinux1_x86_64")
	}
	return append(tags, "linux_"+arch)
}

// Runner starts a program in dir, with additions to the environment, and waits.
type Runner func(ctx context.Context, dir string, env []string, output io.Writer, name string, args ...string) error

func run(ctx context.Context, dir string, env []string, output io.Writer, name string, args ...string) error {
	cmd := exec.CommandContext(ctx, name, args...)
	cmd.Dir, cmd.Env = dir, append(os.Environ(), env...)
	cmd.Stdout, cmd.Stderr = output, output
	cmd.WaitDelay = 5 * time.Second
	return cmd.Run()
}

// quiet keeps settings of the user's own pip from getting in the way.
func quiet() []string {
	return []string{"PIP_USER=0", "PIP_REQUIRE_VIRTUALENV=0", "PIP_DISABLE_PIP_VERSION_CHECK=1", "PIP_NO_INPUT=1", "PYTHONDONTWRITEBYTECODE=1"}
}

// findPip returns an interpreter that has pip.
func findPip(ctx context.Context, o Options) (string, error) {
	candidates := []string{o.Python}
	if o.Python == "" {
		candidates = []string{"python3", "python"}
	}
	for _, python := range candidates {
		if o.Run(ctx, o.Dir, quiet(), io.Discard, python, "-m", "pip", "--version") == nil {
			return python, nil
		}
		if ctx.Err() != nil {
			return "", context.Cause(ctx)
		}
	}
	return "", fmt.Errorf("%w: %s cannot run it", ErrPip, strings.Join(candidates, " or "))
}

func install(ctx context.Context, o Options, python, site string) error {
	dir, err := filepath.Abs(o.Dir)
	if err != nil {
		return err
	}
	if site, err = filepath.Abs(site); err != nil {
		return err
	}
	args := []string{"-m", "pip", "install", "--no-compile", "--only-binary=:all:", "--target", site,
		"--implementation", "cp", "--python-version", o.Target.Python}
	for _, tag := range o.Target.tags() {
		args = append(args, "--platform", tag)
	}
	args = append(args, "-r", requirements)
	var tail lastLines
	if err := o.Run(ctx, dir, quiet(), io.MultiWriter(o.Log, &tail), python, args...); err != nil {
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		return fmt.Errorf("%w: %s", ErrInstall, tail.error(err))
	}
	return nil
}

// lastLines keeps the end of what pip says.
type lastLines struct{ buf []byte }

func (l *lastLines) Write(p []byte) (int, error) {
	l.buf = append(l.buf, p...)
	if over := len(l.buf) - 4096; over > 0 {
		l.buf = append(l.buf[:0], l.buf[over:]...)
	}
	return len(p), nil
}

// error returns the last line that pip calls an error.
func (l *lastLines) error(otherwise error) string {
	found := otherwise.Error()
	for line := range bytes.Lines(l.buf) {
		if rest, ok := bytes.CutPrefix(bytes.TrimSpace(line), []byte("ERROR: ")); ok {
			found = string(rest)
		}
	}
	return found
}
