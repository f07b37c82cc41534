package console_test

import (
	"bytes"
	"io"
	"log/slog"
	"strings"
	"testing"

	"github.com/cape-functions/cape/host/internal/launcher/console"
)

func TestCopy(t *testing.T) {
	var out bytes.Buffer
	log := slog.New(slog.NewTextHandler(&out, &slog.HandlerOptions{Level: slog.LevelInfo}))
	in := strings.Join([]string{
		"a kernel's line \x1b[31m",
		`{"time":"x","level":"WARN","msg":"a layer of the jail cannot be had","layer":"cgroup"}`,
		`{"level":"louder","msg":"odd"}`,
		`{"level":7,"msg":8}`,
		"[1,2]",
	}, "\n")
	console.Copy(log, strings.NewReader(in), slog.LevelInfo)
	for _, want := range []string{`level=INFO msg=enclave line="a kernel's line \x1b[31m"`, `level=WARN msg="enclave: a layer of the jail cannot be had" layer=cgroup`,
		`level=INFO msg="enclave: odd"`, `level=INFO msg="enclave: "`, `line=[1,2]`} {
		if !strings.Contains(out.String(), want) {
			t.Errorf("%s is not in\n%s", want, out.String())
		}
	}
	out.Reset()
	console.Copy(log, strings.NewReader(in), slog.LevelDebug)
	if strings.Contains(out.String(), "kernel") {
		t.Error("plain lines have another level than asked for")
	}
}

// The last line is handed back, as text.
func TestLastLine(t *testing.T) {
	for in, want := range map[string]string{
		"": "", "a\nb\n": "b",
		"a\n" + `{"level":"ERROR","msg":"ending","error":"no key"}`:                             "ending: no key",
		`{"msg":"serving","error":7}`:                                                           "serving",
		`{"msg":"stopped","stage":"nsm"}` + "\n" + `{"msg":"machine ending","stage":"runtime"}`: "stopped: nsm",
		`{"msg":"machine ending","stage":"memory"}`:                                             "machine ending: memory",
	} {
		if got := console.Copy(slog.New(slog.DiscardHandler), strings.NewReader(in), slog.LevelInfo); got != want {
			t.Errorf("%q: %q, want %q", in, got, want)
		}
	}
}

// What is longer than a line may be is read to its end, and not kept.
func TestLongLine(t *testing.T) {
	var out bytes.Buffer
	r := strings.NewReader(strings.Repeat("x", 1<<20) + "\nafter\n")
	console.Copy(slog.New(slog.NewTextHandler(&out, nil)), r, slog.LevelInfo)
	if n, err := r.Read(make([]byte, 1)); err != io.EOF || n != 0 || out.Len() > 0 {
		t.Errorf("%d bytes are left, %d logged", r.Len(), out.Len())
	}
}
