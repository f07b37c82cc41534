package e2e

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/cape-functions/cape/test/platform"
)

// TestEncryptToVersions: what is encrypted to a name by somebody who has seen its second version is nothing for the first, which the
// account signed all the same.
func TestEncryptToVersions(t *testing.T) {
	p := platform.Start(t, t.TempDir())
	dir := filepath.Join(t.TempDir(), "safe")
	if err := os.Mkdir(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	deploy := func(version string) string {
		source := "def cape_handler(data):\n    return b'" + version + " saw ' + data\n"
		if err := os.WriteFile(filepath.Join(dir, "app.py"), []byte(source), 0o644); err != nil {
			t.Fatal(err)
		}
		return p.Deploy(dir)
	}
	encrypt := func() string { return strings.TrimSpace(p.Must("encrypt", "--to", "dev/safe", "a secret")) }
	first := deploy("first")
	before := encrypt()
	second := deploy("second")
	after := encrypt()
	for _, c := range []struct{ id, input, want string }{
		{first, before, "first saw a secret"}, {second, before, "second saw a secret"}, {second, after, "second saw a secret"},
	} {
		if got := strings.TrimSpace(p.Must("run", c.id, c.input)); got != c.want {
			t.Errorf("got %q, want %q", got, c.want)
		}
	}
	if r := p.Cape("", "run", first, after); r.Code != 1 || r.Out != "" {
		t.Errorf("the first version gives out %q", r.Out)
	}
}
