package trust_test

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"github.com/cape-functions/cape/client/trust"
	"github.com/cape-functions/cape/core/attest/chain"
	"github.com/cape-functions/cape/core/wire"
)

const origin = "https://cape.example.com:443"

func sum(s string) string {
	h := sha256.Sum256([]byte(s))
	return hex.EncodeToString(h[:])
}

func entry() *wire.TrustOrigin {
	pcr := strings.Repeat("ab", 48)
	return &wire.TrustOrigin{
		Root: chain.AWSRootSHA256, PCRs: map[string][]string{"0": {pcr}, "1": {pcr}, "2": {pcr, strings.Repeat("cd", 48)}, "8": {pcr}, "16": {pcr}},
		KeyPolicy: sum("policy"), Added: "2026-01-02T03:04:05Z",
		Functions: map[string]string{"AAAAAAAAAAAAAAAAAAAAAA": sum("code")},
		Names:     map[string]*wire.TrustedNamed{"ann/f": {ID: "AAAAAAAAAAAAAAAAAAAAAA", Checksum: sum("code")}},
	}
}

func file(change func(*wire.TrustOrigin)) *wire.TrustFile {
	e := entry()
	if change != nil {
		change(e)
	}
	return &wire.TrustFile{Version: 1, Origins: map[string]*wire.TrustOrigin{origin: e}}
}

func TestParseRefuses(t *testing.T) {
	good, err := trust.Encode(file(nil))
	if err != nil {
		t.Fatal(err)
	}
	if f, err := trust.Parse(good); err != nil || !cmp.Equal(f, file(nil)) {
		t.Fatalf("what was written is not read back: %v", err)
	}
	text := string(good)
	for name, bad := range map[string]string{
		"empty":             "",
		"not JSON":          "trust",
		"null":              "null",
		"two values":        text + text,
		"cut":               text[:len(text)/2],
		"other version":     strings.Replace(text, `"version": 1`, `"version": 2`, 1),
		"no version":        strings.Replace(text, `"version": 1,`, "", 1),
		"unknown field":     strings.Replace(text, `"root":`, `"later": 1, "root":`, 1),
		"a key twice":       strings.Replace(text, `"root":`, `"root": "00", "root":`, 1),
		"a server twice":    `{"version":1,"origins":{"https://a:443":null,"https://a:443":null}}`,
		"server without":    `{"version":1,"origins":{"https://a:443":null}}`,
		"not an origin":     strings.Replace(text, origin, "https://cape.example.com", 1),
		"upper-case origin": strings.Replace(text, origin, "https://Cape.example.com:443", 1),
		"deep":              strings.Repeat("[", 100) + strings.Repeat("]", 100),
	} {
		if _, err := trust.Parse([]byte(bad)); !errors.Is(err, trust.ErrFile) {
			t.Errorf("%s: error %v, want ErrFile", name, err)
		}
	}
	for name, change := range map[string]func(*wire.TrustOrigin){
		"root missing":               func(e *wire.TrustOrigin) { e.Root = "" },
		"root in upper case":         func(e *wire.TrustOrigin) { e.Root = strings.ToUpper(e.Root) },
		"other root, no certificate": func(e *wire.TrustOrigin) { e.Root, e.Development = sum("x"), true },
		"other root, not marked":     func(e *wire.TrustOrigin) { e.Root, e.RootDER = sum("x"), []byte("x") },
		"AWS's root marked":          func(e *wire.TrustOrigin) { e.Development = true },
		"certificate of another":     func(e *wire.TrustOrigin) { e.Root, e.RootDER, e.Development = sum("x"), []byte("y"), true },
		"PCR0 missing":               func(e *wire.TrustOrigin) { delete(e.PCRs, "0") },
		"PCR1 missing":               func(e *wire.TrustOrigin) { delete(e.PCRs, "1") },
		"PCR2 without values":        func(e *wire.TrustOrigin) { e.PCRs["2"] = []string{} },
		"PCR8 without values":        func(e *wire.TrustOrigin) { e.PCRs["8"] = nil },
		"PCR too short":              func(e *wire.TrustOrigin) { e.PCRs["0"] = []string{"abcd"} },
		"PCR32":                      func(e *wire.TrustOrigin) { e.PCRs["32"] = e.PCRs["0"] },
		"index in another form":      func(e *wire.TrustOrigin) { e.PCRs["03"] = e.PCRs["0"] },
		"key policy is no sum":       func(e *wire.TrustOrigin) { e.KeyPolicy = "policy" },
		"time":                       func(e *wire.TrustOrigin) { e.Added = "yesterday" },
		"function without sum":       func(e *wire.TrustOrigin) { e.Functions["x"] = "" },
		"function without id":        func(e *wire.TrustOrigin) { e.Functions[""] = sum("x") },
		"name without sum":           func(e *wire.TrustOrigin) { e.Names["x"] = nil },
	} {
		if _, err := trust.Encode(file(change)); !errors.Is(err, trust.ErrFile) {
			t.Errorf("%s: error %v, want ErrFile", name, err)
		}
	}
}

func TestStore(t *testing.T) {
	path := filepath.Join(t.TempDir(), "new", "trust.json")
	s := trust.NewStore(path)
	if f, err := s.Load(); err != nil || len(f.Origins) != 0 {
		t.Fatalf("absent file: %v, %v", f, err)
	}
	stop := errors.New("stop")
	if err := s.Update(t.Context(), func(*wire.TrustFile) error { return stop }); !errors.Is(err, stop) {
		t.Error(err)
	}
	if _, err := os.Stat(path); !errors.Is(err, os.ErrNotExist) {
		t.Error("a change that failed was written")
	}
	if err := s.Update(t.Context(), func(f *wire.TrustFile) error { f.Origins[origin] = entry(); return nil }); err != nil {
		t.Fatal(err)
	}
	info, err := os.Stat(path)
	if err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("mode %v, %v", info.Mode(), err)
	}
	if e, err := s.Origin(origin); err != nil || !cmp.Equal(e, entry()) {
		t.Errorf("entry %v, %v", e, err)
	}
	if err := s.Update(t.Context(), func(f *wire.TrustFile) error { f.Origins[origin].Root = "x"; return nil }); !errors.Is(err, trust.ErrFile) {
		t.Errorf("a broken entry was written: %v", err)
	}
}

// TestUpdatesAreNotLost: Stores know nothing of each other, as processes do not.
func TestUpdatesAreNotLost(t *testing.T) {
	path := filepath.Join(t.TempDir(), "trust.json")
	const writers, each = 8, 10
	var group sync.WaitGroup
	for w := range writers {
		group.Go(func() {
			for i := range each {
				err := trust.NewStore(path).Update(t.Context(), func(f *wire.TrustFile) error {
					if f.Origins[origin] == nil {
						f.Origins[origin] = entry()
					}
					f.Origins[origin].Functions[fmt.Sprintf("w%d-%d", w, i)] = sum("code")
					return nil
				})
				if err != nil {
					t.Error(err)
				}
				if _, err := trust.NewStore(path).Load(); err != nil {
					t.Errorf("reading while others write: %v", err)
				}
			}
		})
	}
	group.Wait()
	e, err := trust.NewStore(path).Origin(origin)
	if err != nil || len(e.Functions) != writers*each+1 {
		t.Errorf("%d functions, %v; want %d", len(e.Functions), err, writers*each+1)
	}
	left, err := os.ReadDir(filepath.Dir(path))
	if err != nil || len(left) != 2 {
		t.Errorf("left behind: %v, %v", left, err)
	}
}

func TestOrigin(t *testing.T) {
	for address, want := range map[string]string{
		"https://cape.example.com":       origin,
		"HTTPS://CAPE.example.com/path/": origin,
		"http://127.0.0.1:7676":          "http://127.0.0.1:7676",
		"http://localhost":               "http://localhost:80",
		"https://[::1]:8443/":            "https://[::1]:8443",
	} {
		if got, err := trust.Origin(address); err != nil || got != want {
			t.Errorf("%s: %q, %v; want %q", address, got, err, want)
		}
	}
	for _, address := range []string{"", "cape.example.com", "localhost:80", "//x", "https:x", "https://", "https://u@x", "ws://x", "https://x:y", "https://\x00"} {
		if got, err := trust.Origin(address); !errors.Is(err, trust.ErrOrigin) {
			t.Errorf("%q: %q, %v; want ErrOrigin", address, got, err)
		}
	}
}

// FuzzTrustFile: whatever is accepted is written back and read to the same content.
func FuzzTrustFile(f *testing.F) {
	good, err := trust.Encode(file(nil))
	if err != nil {
		f.Fatal(err)
	}
	f.Add(good)
	f.Add([]byte(`{"version":1,"origins":{}}`))
	f.Add([]byte(`{"version":1}`))
	f.Add([]byte(`{"version":1,"version":1}`))
	f.Add([]byte(`[[[[]]]]`))
	f.Fuzz(func(t *testing.T, data []byte) {
		first, err := trust.Parse(data)
		if err != nil {
			if !errors.Is(err, trust.ErrFile) {
				t.Fatalf("error %v is not ErrFile", err)
			}
			return
		}
		text, err := trust.Encode(first)
		if err != nil {
			t.Fatalf("accepted, but not written: %v", err)
		}
		again, err := trust.Parse(text)
		if err != nil || !cmp.Equal(first, again, cmpopts.EquateEmpty()) {
			t.Fatalf("not the same after writing: %v\n%s", err, cmp.Diff(first, again))
		}
		if more, err := trust.Encode(again); err != nil || !bytes.Equal(text, more) {
			t.Fatal("writing is not stable")
		}
	})
}
