package sbom

import (
	"bytes"
	"debug/buildinfo"
	"encoding/json"
	"runtime/debug"
	"strings"
	"testing"
	"time"

	"github.com/cape-functions/cape/image/internal/lock"
)

func sample() Image {
	sum := strings.Repeat("0b", 32)
	return Image{
		Name: "cape-runtime", Version: "abc", SHA256: sum, Created: time.Unix(1, 0),
		Debian:  []lock.Package{{Name: "libc6", Version: "2.36-9+deb12u1", Arch: "amd64", SHA256: sum}, {Name: "libstdc++6", Version: "1:2~3", Arch: "amd64", SHA256: sum}},
		Kernel:  lock.Package{Name: "linux-source-6.12", Version: "6.12.1-1", Arch: "all", SHA256: sum},
		Runtime: &buildinfo.BuildInfo{GoVersion: "go1.26.8", Deps: []*debug.Module{{Path: "example.com/a/b", Version: "v1.2.3"}}},
	}
}

// TestDocument: every element has an identifier of its own, every relation names elements that exist, and what is in the
// image can be found by a scanner.
func TestDocument(t *testing.T) {
	var out, again bytes.Buffer
	if err := Write(&out, sample()); err != nil {
		t.Fatal(err)
	}
	if err := Write(&again, sample()); err != nil || !bytes.Equal(out.Bytes(), again.Bytes()) {
		t.Error("two documents differ", err)
	}
	var d document
	if err := json.Unmarshal(out.Bytes(), &d); err != nil {
		t.Fatal(err)
	}
	ids, locators := map[string]bool{documentID: true}, map[string]bool{}
	for _, p := range d.Packages {
		if ids[p.ID] {
			t.Errorf("%s twice", p.ID)
		}
		ids[p.ID] = true
		for _, r := range p.Refs {
			locators[r.Locator] = true
		}
	}
	for _, r := range d.Relationships {
		if !ids[r.Of] || !ids[r.To] {
			t.Errorf("%v names what is not there", r)
		}
	}
	for _, want := range []string{
		"pkg:deb/debian/libc6@2.36-9%2Bdeb12u1?arch=amd64", "pkg:deb/debian/libstdc++6@1%3A2~3?arch=amd64",
		"pkg:deb/debian/linux-source-6.12@6.12.1-1?arch=all", "pkg:golang/stdlib@1.26.8", "pkg:golang/example.com/a/b@v1.2.3",
	} {
		if !locators[want] {
			t.Errorf("no %s in %v", want, locators)
		}
	}
}
