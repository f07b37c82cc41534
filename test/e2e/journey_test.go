package e2e

import (
	"crypto/sha256"
	"encoding/json"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/cape-functions/cape/test/platform"
)

func TestJourney(t *testing.T) {
	dir := t.TempDir()
	p := start(t, dir)
	upper := function(t, "upper", map[string]string{
		"app.py":          "from lib import shout\ndef cape_handler(d):\n    print('noise')\n    return shout(d.decode()) + open('tail.txt').read()\n",
		"lib/__init__.py": "def shout(s): return s.upper()\n",
		"tail.txt":        "!",
	})
	id := p.Deploy(upper)
	for name, got := range map[string]string{
		"by id":     p.Must("run", id, "hello"),
		"by name":   p.Must("run", "dev/upper", "hello"),
		"encrypted": p.Must("run", id, strings.TrimSpace(p.Must("encrypt", "hello"))),
	} {
		if got != "HELLO!\n" {
			t.Errorf("%s: %q", name, got)
		}
	}
	if got := p.Must("test", upper, "t"); got != "T!" {
		t.Errorf("cape test printed %q", got)
	}

	t.Run("binary", func(t *testing.T) {
		echo := p.Deploy(function(t, "echo", app("def cape_handler(d): return d\n")))
		data := make([]byte, 3<<20)
		for i := range data {
			data[i] = byte(rand.Uint32())
		}
		in := filepath.Join(t.TempDir(), "in")
		if err := os.WriteFile(in, data, 0o600); err != nil {
			t.Fatal(err)
		}
		var out struct {
			Output    *string `json:"output"`
			Base64    []byte  `json:"output_base64"`
			Checksums struct{ Input, Function, Output []byte }
		}
		if err := json.Unmarshal([]byte(p.Must("run", echo, "-f", in, "-o", "json")), &out); err != nil {
			t.Fatal(err)
		}
		sum := sha256.Sum256(data)
		if string(out.Base64) != string(data) || string(out.Checksums.Input) != string(sum[:]) || string(out.Checksums.Output) != string(sum[:]) {
			t.Error("result or checksums differ")
		}
		if out.Output != nil {
			t.Error("binary output is given as text")
		}
	})

	t.Run("pins", func(t *testing.T) {
		zero := strings.Repeat("0", 64)
		if r := p.Cape("", "run", id, "x", "--function-checksum", zero); r.Code != 1 || r.Out != "" {
			t.Errorf("a wrong checksum: %+v", r)
		}
		if r := p.Cape("", "run", id, "x", "--pcr", "0:"+strings.Repeat("0", 96)); r.Code != 1 || r.Out != "" {
			t.Errorf("a wrong PCR: %+v", r)
		}
	})

	t.Run("restart", func(t *testing.T) {
		p.Stop()
		p = start(t, dir)
		if got := p.Must("run", id, "again"); got != "AGAIN!\n" {
			t.Errorf("after a restart: %q", got)
		}
	})

	t.Run("delete", func(t *testing.T) {
		p := start(t, t.TempDir())
		gone := p.Deploy(function(t, "gone", app("def cape_handler(d): return d\n")))
		if !strings.Contains(p.Must("list", "-o", "json"), gone) {
			t.Error("list does not show the function")
		}
		p.Must("delete", gone)
		if r := p.Cape("", "run", gone, "x"); r.Code != 1 {
			t.Errorf("a deleted function runs: %+v", r)
		}
	})
}

// TestUpgrade: another runtime under the same signing key reads old data, and
// clients refuse it until they accept its measurements.
func TestUpgrade(t *testing.T) {
	dir := t.TempDir()
	p := start(t, dir)
	id := p.Deploy(function(t, "echo", app("def cape_handler(d): return d\n")))
	sealed := strings.TrimSpace(p.Must("encrypt", "old secret"))
	before := p.Must("get-pcrs", "-o", "json")
	old, err := os.ReadFile(filepath.Join(dir, "config", "trust.json"))
	if err != nil {
		t.Fatal(err)
	}
	p.Stop()
	runtime, err := os.ReadFile(platform.Binary("cape-runtime-dev"))
	if err != nil {
		t.Fatal(err)
	}
	newer := filepath.Join(t.TempDir(), "cape-runtime-dev")
	if err := os.WriteFile(newer, append(runtime, "another build"...), 0o755); err != nil {
		t.Fatal(err)
	}
	p = start(t, dir, "--runtime", newer)
	if got := p.Must("run", id, sealed); got != "old secret\n" {
		t.Errorf("old data after an upgrade: %q", got)
	}
	if after := p.Must("get-pcrs", "-o", "json"); after == before {
		t.Error("another runtime has the same measurements")
	}
	// The entry that the user accepted before the upgrade, under today's address.
	var file struct {
		Version int                        `json:"version"`
		Origins map[string]json.RawMessage `json:"origins"`
	}
	if err := json.Unmarshal(old, &file); err != nil || len(file.Origins) != 1 {
		t.Fatalf("%d origins, %v", len(file.Origins), err)
	}
	for origin, entry := range file.Origins {
		delete(file.Origins, origin)
		file.Origins[p.URL] = entry
	}
	b, err := json.Marshal(file)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, "config", "trust.json"), b, 0o600); err != nil {
		t.Fatal(err)
	}
	if r := p.Cape("", "run", id, "x"); r.Code != 1 || r.Out != "" {
		t.Errorf("a client that knows the old measurements ran the new runtime: %+v", r)
	}
}

func TestDevelopmentRootMustBeNamed(t *testing.T) {
	p := start(t, t.TempDir())
	id := p.Deploy(function(t, "echo", app("def cape_handler(d): return d\n")))
	config := t.TempDir()
	auth, err := os.ReadFile(filepath.Join(p.Dir, "config", "auth"))
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(config, "auth"), auth, 0o600); err != nil {
		t.Fatal(err)
	}
	var env []string
	for _, v := range p.Env() {
		if !strings.HasPrefix(v, "CAPE_ROOT_CERT=") && !strings.HasPrefix(v, "CAPE_LOCAL_CONFIG_DIR=") {
			env = append(env, v)
		}
	}
	env = append(env, "CAPE_LOCAL_CONFIG_DIR="+config)
	if r := p.CapeEnv(env, "", "run", id, "x", "--trust-first-use"); r.Code != 1 || r.Out != "" {
		t.Errorf("a development root that nobody named was accepted: %+v", r)
	}
	env = append(env, "CAPE_ROOT_CERT="+filepath.Join(p.Dir, "root.pem"))
	if r := p.CapeEnv(env, "", "run", id, "x"); r.Code != 1 || r.Out != "" {
		t.Errorf("a first contact off a terminal was accepted without --trust-first-use: %+v", r)
	}
	if r := p.CapeEnv(env, "", "run", id, "x", "--trust-first-use"); r.Code != 0 || r.Out != "x\n" {
		t.Errorf("a named development root: %+v", r)
	}
	if r := p.CapeEnv(env, "", "run", id, "x"); r.Code != 0 || !strings.Contains(strings.ToLower(r.Err), "development") {
		t.Errorf("a development root is not announced: %+v", r)
	}
}

func TestSecondCaped(t *testing.T) {
	p := start(t, t.TempDir())
	r := platform.CapedOnce(t, "dev", "--data-dir", p.Dir, "--listen", "127.0.0.1:0")
	if r.Code != 1 || !strings.Contains(r.Err, p.Dir) {
		t.Errorf("a second caped on one directory: %+v", r)
	}
}
