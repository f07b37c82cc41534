package production

import (
	"encoding/json"
	"os"
	"path/filepath"
	"testing"

	"github.com/cape-functions/cape/test/platform"
)

// upgraded is the runtime with a few bytes behind its end: it runs as before and
// is measured as another image.
func upgraded(t *testing.T) string {
	t.Helper()
	b, err := os.ReadFile(platform.Binary("cape-runtime-dev"))
	if err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(t.TempDir(), "cape-runtime-dev")
	if err := os.WriteFile(path, append(b, "another image"...), 0o755); err != nil {
		t.Fatal(err)
	}
	return path
}

// measured is what the running platform is measured as.
func measured(t *testing.T, p *platform.Platform) map[string]string {
	t.Helper()
	var out struct{ Measurements map[string]string }
	if err := json.Unmarshal([]byte(p.Must("get-pcrs", "-o", "json")), &out); err != nil {
		t.Fatal(err)
	}
	return out.Measurements
}

// TestUpgrades: what image A encrypted is readable by image B of the same
// publisher, and not by an image of another one.
func TestUpgrades(t *testing.T) {
	dir := t.TempDir()
	a := platform.Start(t, dir)
	echo := a.Deploy(platform.Function(t, "echo", platform.App("def cape_handler(d): return d\n")))
	secret := a.Must("encrypt", "a secret")
	imageA := measured(t, a)
	a.Stop()

	b := platform.Start(t, dir, "--runtime", upgraded(t))
	imageB := measured(t, b)
	if imageA["PCR0"] == imageB["PCR0"] || imageA["PCR2"] == imageB["PCR2"] || imageA["PCR8"] != imageB["PCR8"] {
		t.Fatalf("these are not two images of one publisher:\n%v\n%v", imageA, imageB)
	}
	if got := b.Must("run", echo, "hello"); got != "hello\n" {
		t.Errorf("a function of image A under image B: %q", got)
	}
	if got := b.Must("run", echo, secret[:len(secret)-1]); got != "a secret\n" {
		t.Errorf("an envelope of image A under image B: %q", got)
	}
	b.Stop()

	// Another publisher: the signing key is another one.
	kept := t.TempDir()
	for _, name := range []string{"signing.pem", "signing.key"} {
		if err := os.Rename(filepath.Join(dir, "authority", name), filepath.Join(kept, name)); err != nil {
			t.Fatal(err)
		}
	}
	if r := platform.CapedOnce(t, "dev", "--data-dir", dir, "--listen", "127.0.0.1:0"); r.Code != 1 || r.Out != "" {
		t.Errorf("an image of another publisher came up: %+v", r)
	}
	for _, name := range []string{"signing.pem", "signing.key"} {
		if err := os.Rename(filepath.Join(kept, name), filepath.Join(dir, "authority", name)); err != nil {
			t.Fatal(err)
		}
	}
	again := platform.Start(t, dir)
	if got := again.Must("run", echo, "still"); got != "still\n" {
		t.Errorf("back with the first publisher: %q", got)
	}
}
