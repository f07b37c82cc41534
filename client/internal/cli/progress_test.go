package cli

import (
	"bytes"
	"strings"
	"testing"
	"time"
)

func TestProgress(t *testing.T) {
	var out bytes.Buffer
	now := time.Unix(0, 0)
	tty := true
	env := map[string]string{}
	a := &app{IO: IO{Stderr: &out, Now: func() time.Time { return now },
		Terminal: func(any) bool { return tty },
		Getenv:   func(name string) (string, bool) { v, ok := env[name]; return v, ok }}}
	a.flags.output = "plain"
	draw := func() string {
		out.Reset()
		b := a.progress("Uploading")
		for i := range int64(1001) {
			b.update(i*1000, 1_000_000)
			now = now.Add(time.Millisecond)
		}
		b.update(0, 0)
		b.done()
		b.done()
		b.update(1, 2)
		return out.String()
	}
	text := draw()
	if n := strings.Count(text, "\r"); n < 5 || n > 15 {
		t.Errorf("drawn %d times", n)
	}
	if !strings.Contains(text, "100% of 1.0 MB") || !strings.HasSuffix(text, "\n") || strings.Count(text, "\n") != 1 || strings.Contains(text, "\x1b") {
		t.Errorf("%q", text)
	}
	a.flags.output = "json"
	if text := draw(); text != "" {
		t.Errorf("with -o json: %q", text)
	}
	a.flags.output, tty = "plain", false
	if text := draw(); text != "" {
		t.Errorf("off a terminal: %q", text)
	}
	tty, env["TERM"] = true, "dumb"
	if text := draw(); text != "" {
		t.Errorf("on a dumb terminal: %q", text)
	}
}

func TestClean(t *testing.T) {
	for in, want := range map[string]string{
		"plain\n\ttext": "plain\n\ttext", "\x1b[2J": "\ufffd[2J", "a\rb": "a\ufffdb", "\u202eevil": "\ufffdevil", "\xff": "\ufffd", "\u009b": "\ufffd", "é→": "é→",
	} {
		if got := clean(in); got != want {
			t.Errorf("%q became %q, want %q", in, got, want)
		}
	}
}
