package production

import (
	"encoding/json"
	"io"
	"os"
	"path/filepath"
	"testing"

	"github.com/cape-functions/cape/image/eif"
	"github.com/cape-functions/cape/test/platform"
)

// flags are those of a platform with image A.
func flags(t *testing.T) []string {
	if platform.InMachines() {
		return platform.InMachine(t, "../..")
	}
	return nil
}

// upgraded are the flags of a platform with image B, which does what image A does
// and is measured as another one: the runtime with a few bytes behind its end, or the
// image with one more word on its command line.
func upgraded(t *testing.T) []string {
	t.Helper()
	if platform.InMachines() {
		flags := platform.InMachine(t, "../..")
		return append(flags[:3], anotherImage(t, flags[3]))
	}
	b, err := os.ReadFile(platform.Binary("cape-runtime-dev"))
	if err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(t.TempDir(), "cape-runtime-dev")
	if err := os.WriteFile(path, append(b, "another image"...), 0o755); err != nil {
		t.Fatal(err)
	}
	return []string{"--runtime", path}
}

// anotherImage writes an image of the same parts with another command line.
func anotherImage(t *testing.T, path string) string {
	t.Helper()
	dir := t.TempDir()
	in, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer in.Close()
	var files []*os.File
	var kinds []eif.Section
	image, err := eif.Read(t.Context(), in, func(s eif.Section) (io.Writer, error) {
		f, err := os.CreateTemp(dir, "part-")
		files, kinds = append(files, f), append(kinds, s)
		return f, err
	})
	if err != nil {
		t.Fatal(err)
	}
	parts := eif.Parts{Cmdline: "cape.upgraded " + image.Cmdline, Name: "cape-runtime", Version: "b"}
	for i, f := range files {
		defer f.Close()
		if _, err := f.Seek(0, io.SeekStart); err != nil {
			t.Fatal(err)
		}
		switch part := (eif.Part{Content: f, Size: kinds[i].Size}); kinds[i].Kind {
		case eif.Kernel:
			parts.Kernel = part
		case eif.Ramdisk:
			parts.Ramdisks = append(parts.Ramdisks, part)
		}
	}
	out, err := os.Create(filepath.Join(dir, "b.eif"))
	if err != nil {
		t.Fatal(err)
	}
	defer out.Close()
	if _, err := eif.Write(t.Context(), out, parts); err != nil {
		t.Fatal(err)
	}
	return out.Name()
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
	a := platform.Start(t, dir, flags(t)...)
	echo := a.Deploy(platform.Function(t, "echo", platform.App("def cape_handler(d): return d\n")))
	secret := a.Must("encrypt", "a secret")
	imageA := measured(t, a)
	a.Stop()

	b := platform.Start(t, dir, upgraded(t)...)
	imageB := measured(t, b)
	if imageA["PCR0"] == imageB["PCR0"] || imageA["PCR8"] == "" || imageA["PCR8"] != imageB["PCR8"] {
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
	if r := platform.CapedOnce(t, append([]string{"dev", "--data-dir", dir, "--listen", "127.0.0.1:0"}, flags(t)...)...); r.Code != 1 || r.Out != "" {
		t.Errorf("an image of another publisher came up: %+v", r)
	}
	for _, name := range []string{"signing.pem", "signing.key"} {
		if err := os.Rename(filepath.Join(kept, name), filepath.Join(dir, "authority", name)); err != nil {
			t.Fatal(err)
		}
	}
	again := platform.Start(t, dir, flags(t)...)
	if got := again.Must("run", echo, "still"); got != "still\n" {
		t.Errorf("back with the first publisher: %q", got)
	}
}
