package main

import (
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"github.com/cape-functions/cape/host/internal/settings"
	"github.com/cape-functions/cape/host/internal/vsockproxy"
)

const deploy = "../../../deploy"

// TestExampleSettings: what deploy/etc says is what this program reads.
func TestExampleSettings(t *testing.T) {
	read := func(name string, f *pflag.FlagSet, more ...string) {
		t.Helper()
		if err := f.Parse(append([]string{"--worker-token", "/run/x"}, more...)); err != nil {
			t.Fatal(err)
		}
		if err := settings.ReadFile(f, filepath.Join(deploy, "etc", name)); err != nil {
			t.Fatal(err)
		}
	}
	var s settings.Serve
	f := pflag.NewFlagSet("serve", pflag.ContinueOnError)
	s.Register(f)
	read("serve.conf", f)
	if err := s.Validate(); err != nil {
		t.Error(err)
	}
	var w settings.Worker
	f = pflag.NewFlagSet("worker", pflag.ContinueOnError)
	w.Register(f)
	read("worker.conf", f, "--name", "w1")
	if err := w.Validate(); err != nil {
		t.Error(err)
	}
	if c, err := vsockproxy.ReadConfig(filepath.Join(deploy, "etc", "vsock-proxy.yaml")); err != nil || len(c.Endpoints) == 0 {
		t.Error(err)
	}
}

// TestExamplesCommentedOut: lines that an operator may switch on are right as well.
func TestExamplesCommentedOut(t *testing.T) {
	for name, cmd := range map[string]*cobra.Command{"serve.conf": serveCommand(), "worker.conf": workerCommand()} {
		text, err := os.ReadFile(filepath.Join(deploy, "etc", name))
		if err != nil {
			t.Fatal(err)
		}
		for _, m := range regexp.MustCompile(`(?m)^#([a-z-]+) = `).FindAllSubmatch(text, -1) {
			if cmd.Flags().Lookup(string(m[1])) == nil {
				t.Errorf("%s: there is no setting %q", name, m[1])
			}
		}
	}
}

// TestUnits: the units start commands and flags that exist, and are hardened.
func TestUnits(t *testing.T) {
	units, err := filepath.Glob(filepath.Join(deploy, "systemd", "*.service"))
	if err != nil || len(units) != 3 {
		t.Fatalf("%v, %v", units, err)
	}
	root := rootCommand()
	for _, unit := range units {
		text, err := os.ReadFile(unit)
		if err != nil {
			t.Fatal(err)
		}
		m := regexp.MustCompile(`(?m)^ExecStart=/usr/local/bin/(\S+) (.*)$`).FindStringSubmatch(string(text))
		if m == nil {
			t.Fatalf("%s starts nothing", unit)
		}
		if m[1] == "caped" {
			cmd, rest, err := root.Find(strings.Fields(m[2]))
			if err == nil {
				err = cmd.ParseFlags(rest)
			}
			if err != nil || !cmd.Runnable() {
				t.Errorf("%s: %v", unit, err)
			}
		}
		for _, line := range []string{"NoNewPrivileges=yes", "ProtectSystem=strict", "LimitCORE=0", "MemoryDenyWriteExecute=yes", "SystemCallFilter=@system-service"} {
			if !strings.Contains(string(text), "\n"+line+"\n") {
				t.Errorf("%s lacks %s", unit, line)
			}
		}
	}
}
