package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/spf13/cobra"

	"github.com/cape-functions/cape/host/internal/devserver"
)

// execute runs a command line and returns what it printed.
// TestMain answers for caped where it starts itself.
func TestMain(m *testing.M) {
	if len(os.Args) == 2 && os.Args[1] == "version" {
		return
	}
	os.Exit(m.Run())
}

func execute(t *testing.T, args ...string) (stdout, stderr string, err error) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	var out, errs bytes.Buffer
	root := rootCommand()
	root.SetArgs(args)
	root.SetOut(&out)
	root.SetErr(&errs)
	err = root.ExecuteContext(ctx)
	return out.String(), errs.String(), err
}

func TestHelpTeaches(t *testing.T) {
	for _, c := range []struct{ args, want string }{
		{"--help", "caped dev"}, {"dev --help", "--data-dir"}, {"kms init --help", "birth document"}, {"doctor --help", "MISSING"}, {"version", "linux"},
		{"completion bash", "caped"},
	} {
		out, _, err := execute(t, strings.Fields(c.args)...)
		if err != nil || !strings.Contains(out, c.want) {
			t.Errorf("caped %s: %v\n%s", c.args, err, out)
		}
	}
}

func TestBadFlags(t *testing.T) {
	dir := t.TempDir()
	for _, args := range []string{
		"dev --enclave qemu --image /nonexistent/image", "dev --enclave nitro", "dev --enclave x", "dev --listen 7676", "dev --log-format x", "dev --python /nonexistent/python",
		"dev --runtime /nonexistent/runtime", "dev extra", "dev --tls nowhere", "dev --tls=nowhere", "dev --tls enclave extra", "nonsense", "kms nonsense", "kms init --data-dir /nonexistent --pcr8 x", "kms init --data-dir /nonexistent --admin x", "doctor -o x",
	} {
		fields := strings.Fields(args)
		if fields[0] == "dev" {
			fields = append(fields, "--data-dir", dir)
		}
		if out, _, err := execute(t, fields...); err == nil || errors.Is(err, context.DeadlineExceeded) || strings.Contains(out, "ready") {
			t.Errorf("caped %s: %v\n%s", args, err, out)
		}
	}
}

// TestTLSFlag: --tls stands alone or before its value.
func TestTLSFlag(t *testing.T) {
	for args, want := range map[string]string{"": "", "--tls": tlsHost, "--tls host": tlsHost, "--tls enclave": tlsEnclave, "--tls=enclave": tlsEnclave, "--tls --verbose": tlsHost} {
		var f devFlags
		cmd := &cobra.Command{Use: "dev", Args: f.onlyTLS, RunE: func(*cobra.Command, []string) error { return nil }}
		f.registerDev(cmd)
		cmd.SetArgs(strings.Fields(args))
		if err := cmd.Execute(); err != nil || f.tls != want {
			t.Errorf("caped dev %s: %q, %v", args, f.tls, err)
		}
	}
}

func TestDirectory(t *testing.T) {
	t.Setenv("HOME", "/home/u")
	t.Setenv("XDG_DATA_HOME", "")
	for _, c := range []struct{ flag, xdg, want string }{
		{"", "", "/home/u/.local/share/cape/dev"}, {"", "/data", "/data/cape/dev"}, {"/x/y", "/data", "/x/y"},
	} {
		t.Setenv("XDG_DATA_HOME", c.xdg)
		f := devFlags{dataDir: c.flag}
		if got, err := f.directory(); err != nil || got != c.want {
			t.Errorf("%+v: %q, %v", c, got, err)
		}
	}
	t.Setenv("HOME", "")
	t.Setenv("XDG_DATA_HOME", "")
	if got, err := (&devFlags{}).directory(); err == nil {
		t.Errorf("without a home: %q", got)
	}
}

func TestListenWarning(t *testing.T) {
	for _, c := range []struct {
		listen string
		warns  bool
	}{{"127.0.0.1:0", false}, {"localhost:1", false}, {"[::1]:1", false}, {"0.0.0.0:1", true}, {":1", true}, {"[::]:1", true}, {"192.0.2.1:1", true}, {"host.example:1", true}} {
		var log bytes.Buffer
		l, err := newLogger(&log, "text", false)
		if err != nil {
			t.Fatal(err)
		}
		f := devFlags{listen: c.listen}
		if err := f.checkListen(l); err != nil || (log.Len() > 0) != c.warns {
			t.Errorf("%s: %v, %q", c.listen, err, log.String())
		}
	}
}

func TestLog(t *testing.T) {
	var out bytes.Buffer
	l, err := newLogger(&out, "text", false)
	if err != nil {
		t.Fatal(err)
	}
	l.Info("a call")
	l.Log(t.Context(), devserver.LevelNotice, "started", "n", 3)
	l.With("part", "kms").WithGroup("g").Warn("bad\nline\x1b[2J", "text", "two words", "empty", "", slog.Group("in", "k", "v"), "err", errors.New("x=\"y\""))
	l.Error("worse", slog.Attr{})
	var got []string
	for line := range strings.Lines(out.String()) {
		at, rest, _ := strings.Cut(strings.TrimSuffix(line, "\n"), " ")
		if _, err := time.Parse("15:04:05.000", at); err != nil {
			t.Error(err)
		}
		got = append(got, rest)
	}
	want := []string{
		"started  n=3",
		`warning: bad line [2J  part=kms  g.text="two words"  g.empty=""  g.in.k=v  g.err="x=\"y\""`,
		"error: worse",
	}
	if strings.Join(got, "\n") != strings.Join(want, "\n") {
		t.Errorf("%q\nwant %q", got, want)
	}
	out.Reset()
	if l, err = newLogger(&out, "json", true); err != nil {
		t.Fatal(err)
	}
	l.Debug("detail")
	if !json.Valid(out.Bytes()) {
		t.Errorf("%q", out.String())
	}
}

func TestDoctor(t *testing.T) {
	runtime := filepath.Join(t.TempDir(), "cape-runtime-dev")
	const layers = `#!/bin/sh
echo '[{"Name":"seccomp","On":true},{"Name":"memory cgroup","On":false,"Why":"there is none"}]'`
	if err := os.WriteFile(runtime, []byte(layers), 0o700); err != nil {
		t.Fatal(err)
	}
	out, _, err := execute(t, "doctor", "--runtime", runtime, "-o", "json")
	var checks []check
	if e := json.Unmarshal([]byte(out), &checks); err != nil || e != nil || len(checks) < 8 {
		t.Fatalf("%v, %v\n%s", err, e, out)
	}
	for _, c := range checks {
		if c.Name == "" || (!c.OK && c.Detail == "") {
			t.Errorf("%+v tells nothing", c)
		}
	}
	if last := checks[len(checks)-1]; last != (check{"jail: memory cgroup", false, false, "there is none"}) {
		t.Errorf("%+v", last)
	}
	for _, flag := range []string{"--runtime", "--python"} {
		out, _, err := execute(t, "doctor", "--runtime", runtime, flag, "/nonexistent")
		if !errors.Is(err, errUnfit) || !strings.Contains(out, "MISSING") {
			t.Errorf("%s: %v\n%s", flag, err, out)
		}
	}
}
