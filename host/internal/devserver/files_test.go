package devserver

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"encoding/pem"
	"errors"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/cape-functions/cape/core/wire"
)

func trustOf(t *testing.T, dir string) wire.TrustFile {
	t.Helper()
	var f wire.TrustFile
	readJSON(t, filepath.Join(dir, "config", "trust.json"), &f)
	return f
}

func checkTrust(t *testing.T, dir, url string, config *wire.Config) {
	t.Helper()
	trust := config.Trust
	believes, err := wire.Marshal(trust)
	if err != nil {
		t.Fatal(err)
	}
	pcr16, err := wire.ExpectedPCR16(trust)
	if err != nil {
		t.Fatal(err)
	}
	text, err := os.ReadFile(filepath.Join(dir, "root.pem"))
	if err != nil {
		t.Fatal(err)
	}
	block, _ := pem.Decode(text)
	root, policy, m := sha256.Sum256(block.Bytes), sha256.Sum256([]byte("policy")), measured("a")
	want := wire.TrustFile{Version: 1, Origins: map[string]*wire.TrustOrigin{url: {
		Root: hex.EncodeToString(root[:]), RootDER: block.Bytes, Development: true, KeyPolicy: hex.EncodeToString(policy[:]),
		KMS: config.KMS, Trust: believes,
		PCRs: map[string][]string{"0": {m["PCR0"]}, "1": {m["PCR1"]}, "2": {m["PCR2"]}, "8": {m["PCR8"]}, "16": {hex.EncodeToString(pcr16[:])}},
	}}}
	got := trustOf(t, dir)
	for _, o := range got.Origins {
		if at, err := time.Parse(time.RFC3339, o.Added); err != nil || time.Since(at) > time.Minute {
			t.Errorf("added %q", o.Added)
		}
		o.Added = ""
	}
	if d := cmp.Diff(want, got); d != "" {
		t.Error(d)
	}
}

// checkSettings reads env as a shell does.
func checkSettings(t *testing.T, dir, url string) {
	t.Helper()
	cmd := exec.Command("sh", "-c", `. "$1/env"; printf '%s\n' "$CAPE_ENCLAVE_HOST" "$CAPE_AUTH_HOST" "$CAPE_ROOT_CERT" "$CAPE_LOCAL_CONFIG_DIR" "${CAPE_CA_CERT-none}"`, "sh", dir)
	cmd.Env = []string{"CAPE_CA_CERT=of an earlier platform", "PATH=" + os.Getenv("PATH")}
	out, err := cmd.Output()
	want := []string{url, url, filepath.Join(dir, "root.pem"), filepath.Join(dir, "config"), "none"}
	if d := cmp.Diff(want, strings.Split(strings.TrimSpace(string(out)), "\n")); err != nil || d != "" {
		t.Error(err, d)
	}
	var settings map[string]string
	readJSON(t, filepath.Join(dir, "client.json"), &settings)
	if d := cmp.Diff(map[string]string{"enclave_host": url, "auth_host": url, "root_cert": want[2], "local_config_dir": want[3]}, settings); d != "" {
		t.Error(d)
	}
}

func checkLogin(t *testing.T, dir, url string) login {
	t.Helper()
	var l login
	readJSON(t, filepath.Join(dir, "config", "auth"), &l)
	if l.Type != "Bearer" || l.Refresh == nil || l.ID == "" || time.Until(l.Expiry) < time.Hour {
		t.Errorf("%+v", l)
	}
	if status, body := get(t, http.DefaultClient, url+"/v1/functions", l.Access); status != 200 || strings.TrimSpace(body) != "[]" {
		t.Errorf("%d %q", status, body)
	}
	if status, _ := get(t, http.DefaultClient, url+"/v1/functions", l.ID); status != 401 {
		t.Errorf("an id token opens the API: %d", status)
	}
	return l
}

func TestTrustFileOfOthers(t *testing.T) {
	dir, l := t.TempDir(), fakeLauncher()
	first := start(t, options(dir, l))
	first.stop()
	path := filepath.Join(dir, "config", "trust.json")
	file := trustOf(t, dir)
	sum := strings.Repeat("ab", 32)
	mine := file.Origins[first.url]
	mine.Functions, mine.Names = map[string]string{"id": sum}, map[string]*wire.TrustedNamed{"dev/f": {Checksum: sum}}
	mine.Accounts = map[string]string{"dev": sum}
	other := &wire.TrustOrigin{Root: sum, PCRs: map[string][]string{"0": {sum}}, Added: "2026-01-01T00:00:00Z"}
	file.Origins["https://cape.example:443"] = other
	b, err := json.Marshal(file)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, b, 0o600); err != nil {
		t.Fatal(err)
	}
	second := start(t, options(dir, l))
	got := trustOf(t, dir)
	if d := cmp.Diff(other, got.Origins["https://cape.example:443"]); d != "" {
		t.Errorf("another origin's entry: %s", d)
	}
	if e := got.Origins[second.url]; len(got.Origins) != 2 || e == nil || e.Functions["id"] != sum || e.Names["dev/f"] == nil || e.Accounts["dev"] != sum {
		t.Errorf("what was remembered of functions is gone: %+v", got.Origins)
	}
	second.stop()
	for name, text := range map[string]string{"later version": `{"version":2,"origins":{}}`, "unknown field": `{"version":1,"origins":{},"pins":{}}`, "garbage": `{`} {
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		if err := refused(t, options(dir, l)); !errors.Is(err, ErrTrustFile) {
			t.Errorf("%s: %v", name, err)
		}
		if b, err := os.ReadFile(path); err != nil || string(b) != text {
			t.Errorf("%s: it was changed: %q, %v", name, b, err)
		}
	}
}

func TestTrustFileIsLocked(t *testing.T) {
	dir, l := t.TempDir(), fakeLauncher()
	if err := os.Mkdir(filepath.Join(dir, "config"), 0o700); err != nil {
		t.Fatal(err)
	}
	f, err := os.Create(filepath.Join(dir, "config", "trust.json.lock"))
	if err != nil {
		t.Fatal(err)
	}
	if err := syscall.Flock(int(f.Fd()), syscall.LOCK_EX); err != nil {
		t.Fatal(err)
	}
	held := time.AfterFunc(500*time.Millisecond, func() { f.Close() })
	defer held.Stop()
	begun := time.Now()
	start(t, options(dir, l))
	if time.Since(begun) < 500*time.Millisecond {
		t.Error("the file was changed while a client held it")
	}
}

func TestRunDir(t *testing.T) {
	long := "/tmp/" + strings.Repeat("long/", 20) + filepath.Base(t.TempDir())
	dir, err := runDir(long)
	if err != nil {
		t.Fatal(err)
	}
	defer os.RemoveAll(dir)
	if err := os.WriteFile(filepath.Join(dir, "left"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	again, err := runDir(long)
	if err != nil || again != dir || len(dir) > maxRunDir {
		t.Errorf("%s and %s, %v", dir, again, err)
	}
	if entries, err := os.ReadDir(again); err != nil || len(entries) != 0 {
		t.Errorf("%v, %v", entries, err)
	}
	if err := os.RemoveAll(dir); err != nil {
		t.Fatal(err)
	}
	// Somebody who put a link there must not decide where sockets lie.
	if err := os.Symlink(t.TempDir(), dir); err != nil {
		t.Fatal(err)
	}
	if got, err := runDir(long); err == nil {
		t.Errorf("a link was followed: %s", got)
	}
}
