package launcher_test

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/cape-functions/cape/host/internal/launcher"
)

func TestReadRelease(t *testing.T) {
	pcr := strings.Repeat("ab", 48)
	good := `{"measurements":{"HashAlgorithm":"Sha384 { ... }","PCR0":"` + pcr + `","PCR1":"` + pcr + `","PCR2":"` + pcr + `"},"revision":"r1","python":"3.11","platform":"linux-x86_64"}`
	write := func(text string) string {
		path := filepath.Join(t.TempDir(), "release.json")
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		return path
	}
	r, err := launcher.ReadRelease(write(good + "\n"))
	if err != nil || r.Revision != "r1" || r.Measurements["PCR2"] != pcr {
		t.Fatalf("%+v, %v", r, err)
	}
	for name, path := range map[string]string{
		"none":            filepath.Join(t.TempDir(), "none"),
		"empty":           write(""),
		"no PCR1":         write(strings.Replace(good, "PCR1", "PCR3", 1)),
		"short PCR":       write(strings.Replace(good, pcr, pcr[2:], 1)),
		"not hexadecimal": write(strings.Replace(good, pcr, "x"+pcr[1:], 1)),
		"more behind":     write(good + "{}"),
		"too large":       write(good + strings.Repeat(" ", 64<<10)),
	} {
		if _, err := launcher.ReadRelease(path); !errors.Is(err, launcher.ErrRelease) {
			t.Errorf("%s: %v", name, err)
		}
	}
}
