package e2e

import (
	"crypto/hmac"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/cape-functions/cape/test/platform"
)

// TestSealedSessionsOnTheHost: in protocol v2 the host sees neither results nor
// the session's token, nor what a function prints, though no TLS is in the way.
func TestSealedSessionsOnTheHost(t *testing.T) {
	dir := t.TempDir()
	p := start(t, dir)
	// A user whose token and keys are in no process of the host's, and in none of its files.
	config := filepath.Join(t.TempDir(), "config")
	if err := os.Mkdir(config, 0o700); err != nil {
		t.Fatal(err)
	}
	token := p.Mint(func(claims map[string]any) { claims["sub"], claims[platform.UsernameClaim] = "carol", "carol" })
	login, err := json.Marshal(map[string]string{"access_token": token, "token_type": "Bearer", "expiry": "2100-01-01T00:00:00Z"})
	if err != nil {
		t.Fatal(err)
	}
	trust, err := os.ReadFile(filepath.Join(dir, "config", "trust.json"))
	if err != nil {
		t.Fatal(err)
	}
	for name, data := range map[string][]byte{"auth": login, "trust.json": trust} {
		if err := os.WriteFile(filepath.Join(config, name), data, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	env := append(p.Env(), "CAPE_LOCAL_CONFIG_DIR="+config)
	cape := func(args ...string) string {
		t.Helper()
		r := p.CapeEnv(env, "", args...)
		if r.Code != 0 {
			t.Fatalf("cape %s: exit %d\n%s", strings.Join(args, " "), r.Code, r.Err)
		}
		return r.Out + r.Err
	}
	code, input, printed, failing := newCanary(t, "function"), newCanary(t, "input"), newCanary(t, "printed"), newCanary(t, "failing input")
	source := "import hmac\nKEY = b'" + code.text + "'\ndef cape_handler(d):\n    print('" + printed.text + "')\n" +
		"    if d.startswith(b'fail'):\n        raise ValueError(d.decode())\n    return hmac.new(KEY, d, 'sha256').hexdigest()\n"
	mac := hmac.New(sha256.New, []byte(code.text))
	mac.Write([]byte(input.text))
	output := canary{"output", hex.EncodeToString(mac.Sum(nil))}
	signature := token[strings.LastIndex(token, ".")+1:]
	session := canary{"token", signature[len(signature)/4 : len(signature)/2]}

	var deployed struct {
		ID string `json:"function_id"`
	}
	out := p.CapeEnv(env, "", "deploy", function(t, "sealed", app(source)), "-o", "json")
	if err := json.Unmarshal([]byte(out.Out), &deployed); err != nil || out.Code != 0 {
		t.Fatalf("deploy: %v\n%s", err, out.Err)
	}
	for range 3 {
		if got := cape("run", "--logs", deployed.ID, input.text); !strings.Contains(got, output.text) || !strings.Contains(got, printed.text) {
			t.Fatalf("the run printed %q, want %s and %s", got, output.text, printed.text)
		}
	}
	if r := p.CapeEnv(env, "", "run", deployed.ID, "fail"+failing.text); r.Code == 0 {
		t.Error("a failing function succeeded")
	}
	cape("test", function(t, "tried", app(source)), input.text)
	s := newSearch(t, code, input, output, printed, failing, session)
	s.memory(p.Cmd.Process.Pid)
	s.files(dir)
	s.in("the log", []byte(p.Log.String()))
	p.Kill()
	s.files(dir)
	t.Logf("searched %d MiB", s.bytes>>20)
}
