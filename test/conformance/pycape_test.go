package conformance

import (
	"bytes"
	"context"
	"encoding/json"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/cape-functions/cape/test/platform"
)

// findPython returns an interpreter for which the published client has wheels
// (3.9 to 3.12): its compiled dependency was never built for later ones.
func findPython(t *testing.T) string {
	t.Helper()
	for _, name := range []string{os.Getenv("PYTHON"), "python3", "python3.12", "python3.11", "python3.10", "python3.9"} {
		if name == "" {
			continue
		}
		out, err := exec.CommandContext(t.Context(), name, "-I", "-c", "import sys; print((3, 9) <= sys.version_info[:2] <= (3, 12), sys.executable)").Output()
		if path, ok := strings.CutPrefix(strings.TrimSpace(string(out)), "True "); err == nil && ok {
			return path
		}
	}
	t.Skip("pycape 3.1.1 cannot be installed here: there are no wheels of hybrid-pke for Pythons but 3.9 to 3.12")
	return ""
}

// publishedClient makes a virtual environment with pycape, once in the user's
// cache, and returns its interpreter.
func publishedClient(t *testing.T, python string) string {
	t.Helper()
	wanted, err := os.ReadFile("requirements.txt")
	if err != nil {
		t.Fatal(err)
	}
	wanted = append(wanted, python...)
	cache, err := os.UserCacheDir()
	if err != nil {
		cache = os.TempDir()
	}
	dir := filepath.Join(cache, "cape-test", "pycape")
	if err := os.MkdirAll(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	lock, err := os.OpenFile(filepath.Join(dir, "lock"), os.O_CREATE|os.O_RDWR, 0o644)
	if err != nil {
		t.Fatal(err)
	}
	defer lock.Close()
	if err := syscall.Flock(int(lock.Fd()), syscall.LOCK_EX); err != nil {
		t.Fatal(err)
	}
	interpreter, done := filepath.Join(dir, "venv", "bin", "python"), filepath.Join(dir, "installed")
	if have, err := os.ReadFile(done); err == nil && bytes.Equal(have, wanted) {
		return interpreter
	}
	run(t, nil, nil, python, "-m", "venv", "--clear", filepath.Join(dir, "venv"))
	run(t, nil, nil, interpreter, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--only-binary=:all:", "-r", "requirements.txt")
	if err := os.WriteFile(done, wanted, 0o644); err != nil {
		t.Fatal(err)
	}
	return interpreter
}

// run runs a program that has to succeed and returns what it printed.
func run(t *testing.T, env []string, stdin []byte, name string, args ...string) string {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 5*time.Minute)
	defer cancel()
	cmd := exec.CommandContext(ctx, name, args...)
	cmd.Env, cmd.Stdin = env, bytes.NewReader(stdin)
	var out, errs bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &errs
	if err := cmd.Run(); err != nil {
		t.Fatalf("%s %s: %v\n%s%s", filepath.Base(name), strings.Join(args, " "), err, out.String(), errs.String())
	}
	return out.String()
}

// deployed is what the client is told of a function.
type deployed struct {
	ID       string `json:"id"`
	Checksum string `json:"checksum"`
}

// deploy fetches what a function needs with cape function vendor, and deploys it.
func deploy(t *testing.T, p *platform.Platform, python, name, source, requirements string, flags ...string) deployed {
	t.Helper()
	dir := platform.Function(t, name, map[string]string{"app.py": source, "requirements.txt": requirements})
	if requirements != "" {
		p.Must("function", "vendor", dir, "--python", python)
	}
	var d struct {
		ID       string `json:"function_id"`
		Checksum string `json:"function_checksum"`
	}
	if err := json.Unmarshal([]byte(p.Must(append([]string{"deploy", dir, "-o", "json"}, flags...)...)), &d); err != nil {
		t.Fatal(err)
	}
	return deployed{d.ID, d.Checksum}
}

const (
	tallyApp = `n = 0
def cape_handler(data):
    global n
    n += 1
    if data == b"raise":
        raise ValueError("as asked")
    return str(n).encode() + b" " + data
`
	meanApp = `import serdio
def mean(numbers):
    return sum(numbers) / len(numbers)
cape_handler = serdio.lift_io(mean, as_handler=True)
`
	vaultApp = `import json
from cape_encrypt import cape_encrypt
def cape_handler(data):
    if data.startswith(b"["):
        return str([cape_encrypt.decrypt(c.encode()) for c in json.loads(data)])
    return cape_encrypt.encrypt(data)
`
)

// TestPublishedPycape: pycape 3.1.1 as PyPI has it works, over HTTPS, with
// serdio and cape-encrypt inside functions.
func TestPublishedPycape(t *testing.T) {
	if os.Getenv("CAPE_TEST_FULL") == "" {
		t.Skip("installs pycape; set CAPE_TEST_FULL=1 to run it, as make test does")
	}
	python := findPython(t)
	client := publishedClient(t, python)
	p := platform.Start(t, t.TempDir(), "--tls", "--python", python)
	var pcrs struct{ Measurements map[string]string }
	if err := json.Unmarshal([]byte(p.Must("get-pcrs", "-o", "json")), &pcrs); err != nil {
		t.Fatal(err)
	}
	want := map[string]any{
		"token": p.Token(),
		"tally": deploy(t, p, client, "tally", tallyApp, ""),
		"mean":  deploy(t, p, client, "mean", meanApp, "serdio==3.1.1\nmsgpack==1.2.4\n"),
		"vault": deploy(t, p, client, "vault", vaultApp, "cape-encrypt==0.1.0\n", "--decrypt", "any"),
		"old":   deploy(t, p, client, "old", vaultApp, "cape-encrypt==0.1.0\n", "--protocol", "v1"),
		"pcrs":  map[string][]string{"0": {pcrs.Measurements["PCR0"]}, "8": {pcrs.Measurements["PCR8"]}},
	}
	input, err := json.Marshal(want)
	if err != nil {
		t.Fatal(err)
	}
	ca := filepath.Join(p.Dir, "ca.pem")
	env := append(p.Env(), "SSL_CERT_FILE="+ca, "REQUESTS_CA_BUNDLE="+ca)
	if got := run(t, env, input, client, "published_pycape.py"); got != "done\n" {
		t.Errorf("printed %q", got)
	}
}
