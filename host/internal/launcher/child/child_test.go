package child_test

import (
	"context"
	"errors"
	"log/slog"
	"net"
	"os"
	"os/exec"
	"testing"
	"time"

	"github.com/cape-functions/cape/host/internal/launcher/child"
)

// start runs a shell's command as an enclave.
func start(t *testing.T, command string, change func(*child.Config)) *child.Child {
	t.Helper()
	cfg := child.Config{
		Name: "the test", Log: slog.New(slog.DiscardHandler), Ended: func() error { return nil },
		Spawn: func(output *os.File) (*exec.Cmd, error) {
			cmd := exec.Command("/bin/sh", "-c", command)
			cmd.Stdout, cmd.Stderr, cmd.SysProcAttr = output, output, child.Attributes()
			return cmd, cmd.Start()
		},
	}
	if change != nil {
		change(&cfg)
	}
	c, err := child.Start(cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := c.Close(); err != nil {
			t.Error(err)
		}
	})
	return c
}

func TestEnds(t *testing.T) {
	quiet := func(c *child.Config) { c.Quiet = func(last string) bool { return last == "runtime stopped: done" } }
	for name, tt := range map[string]struct {
		command, last string
		change        func(*child.Config)
		ok            bool
	}{
		"well":              {command: "echo hello", ok: true},
		"badly":             {command: "echo first; echo no such key; exit 3", last: "no such key"},
		"silently":          {command: "exit 3"},
		"killed":            {command: "echo up; kill -9 $$", last: "up"},
		"a machine's well":  {command: `echo '{"msg":"runtime stopped","stage":"done"}'; echo '{"msg":"machine ending","stage":"done"}'`, change: quiet, ok: true},
		"a machine's badly": {command: `echo 'runtime: no such key'; echo '{"msg":"machine ending","stage":"runtime"}'`, last: "runtime: no such key", change: quiet},
	} {
		t.Run(name, func(t *testing.T) {
			c := start(t, tt.command, tt.change)
			<-c.Done()
			var e *child.Error
			if errors.As(c.Err(), &e) == tt.ok || (c.Err() == nil) != tt.ok {
				t.Fatalf("got %v", c.Err())
			}
			if !tt.ok && e.Last != tt.last {
				t.Errorf("the last line is %q, want %q", e.Last, tt.last)
			}
		})
	}
}

func TestReady(t *testing.T) {
	refused := func(context.Context) (net.Conn, error) { return nil, net.ErrClosed }
	c := start(t, "echo why; exit 1", nil)
	var e *child.Error
	if err := c.Ready(t.Context(), time.Minute, time.Millisecond, refused); !errors.As(err, &e) || e.Last != "why" {
		t.Errorf("one that ended: %v", err)
	}
	c = start(t, "exit 0", nil)
	if err := c.Ready(t.Context(), time.Minute, time.Millisecond, refused); !errors.Is(err, child.ErrEnded) {
		t.Errorf("one that ended well: %v", err)
	}
	c = start(t, "exec sleep 60", nil)
	if err := c.Ready(t.Context(), 20*time.Millisecond, time.Millisecond, refused); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("one that is never ready: %v", err)
	}
	if err := c.Ready(t.Context(), time.Minute, time.Millisecond, func(context.Context) (net.Conn, error) {
		one, other := net.Pipe()
		return one, other.Close()
	}); err != nil {
		t.Error(err)
	}
}

// TestClose: what is told to end ended well, and is killed if it does not listen.
func TestClose(t *testing.T) {
	tidied := false
	c := start(t, "exec sleep 60", func(c *child.Config) { c.Ended = func() error { tidied = true; return nil } })
	var e *child.Error
	if err := c.Close(); err != nil || !tidied || errors.As(c.Err(), &e) {
		t.Errorf("%v, %v, tidied: %v", err, c.Err(), tidied)
	}
	if testing.Short() {
		return
	}
	c = start(t, "trap '' TERM; echo up; while :; do sleep 1; done", nil)
	if err := c.Close(); err != nil {
		t.Error(err)
	}
}

func TestNotStarted(t *testing.T) {
	_, err := child.Start(child.Config{Log: slog.New(slog.DiscardHandler), Spawn: func(*os.File) (*exec.Cmd, error) {
		return nil, os.ErrPermission
	}, Ended: func() error { t.Error("nothing was started"); return nil }})
	if !errors.Is(err, os.ErrPermission) {
		t.Error(err)
	}
}
