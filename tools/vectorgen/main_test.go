package main

import (
	"encoding/hex"
	"errors"
	"os"
	"path/filepath"
	"sync"
	"testing"

	"github.com/cape-functions/cape/tools/vectorgen/vectors"
)

const dir = "../../spec/vectors"

var generated = sync.OnceValues(generate)

func files(t *testing.T) map[string][]byte {
	t.Helper()
	want, err := generated()
	if err != nil {
		t.Fatal(err)
	}
	return want
}

// What is committed was written by another process: this also shows that
// nothing is random.
func TestFresh(t *testing.T) {
	if err := apply(dir, files(t), true); err != nil {
		t.Error(err)
	}
}

func TestApply(t *testing.T) {
	want, out := files(t), filepath.Join(t.TempDir(), "vectors")
	if err := apply(out, want, true); !errors.Is(err, errStale) {
		t.Errorf("nothing there: %v", err)
	}
	if err := apply(out, want, false); err != nil {
		t.Fatal(err)
	}
	stray := filepath.Join(out, vectors.KindZip, "stray.json")
	changed := filepath.Join(out, vectors.KindZip, "order.json")
	for _, name := range []string{stray, changed} {
		if err := os.WriteFile(name, []byte("{}"), 0o600); err != nil {
			t.Fatal(err)
		}
		if err := apply(out, want, true); !errors.Is(err, errStale) {
			t.Errorf("%s: %v", name, err)
		}
		if err := apply(out, want, false); err != nil {
			t.Fatal(err)
		}
		if err := apply(out, want, true); err != nil {
			t.Errorf("just written: %v", err)
		}
	}
}

// Every kind is there, and has cases that succeed; most of all cases fail.
func TestKinds(t *testing.T) {
	total, failing := 0, 0
	for _, k := range kinds() {
		all, err := vectors.Read(dir, k.name)
		if err != nil {
			t.Error(err)
			continue
		}
		good := 0
		for _, s := range all {
			if s.Want == vectors.OK {
				good++
			}
		}
		if good == 0 {
			t.Errorf("%s has no case that succeeds", k.name)
		}
		total, failing = total+len(all), failing+len(all)-good
	}
	if failing*2 < total {
		t.Errorf("only %d of %d must fail", failing, total)
	}
	if _, err := vectors.Read(dir, "none"); !errors.Is(err, vectors.ErrNone) {
		t.Errorf("a kind without scenarios: %v", err)
	}
}

// What the published serdio 3.1 gives for these calls.
func TestSerdioKnownAnswers(t *testing.T) {
	known := map[string]string{
		"int":             "81ad5f73657264696f5f617267735fd5029101",
		"list":            "81ad5f73657264696f5f617267735fc70602919401020304",
		"args-and-kwargs": "82ad5f73657264696f5f617267735fc70b029202cb4008000000000000af5f73657264696f5f6b77617267735f81a162cb4000000000000000",
		"tuple":           "81ad5f73657264696f5f617267735fc7070291c70302920102",
		"set":             "81ad5f73657264696f5f617267735fc7050291d5039101",
		"complex":         "81ad5f73657264696f5f617267735fc71a0291c71601c7130292cb3ff0000000000000cb4000000000000000",
		"bytes":           "81ad5f73657264696f5f617267735fc7050291c4026162",
	}
	all, err := vectors.Read(dir, vectors.KindSerdio)
	if err != nil {
		t.Fatal(err)
	}
	for _, s := range all {
		var in vectors.SerdioInput
		if err := vectors.Decode(s.Input, &in); err != nil {
			t.Fatal(err)
		}
		if want, ok := known[s.Name]; ok && hex.EncodeToString(in.Bytes) != want {
			t.Errorf("%s: %x, want %s", s.Name, in.Bytes, want)
		}
		delete(known, s.Name)
	}
	if len(known) > 0 {
		t.Errorf("not among the scenarios: %v", known)
	}
}

// The checksums that the original published.
func TestPublishedChecksums(t *testing.T) {
	for kind, want := range map[string]string{
		"zip/published-echo":                 "f654a25ddf65ed79bfe514178126d97e1141857edf10b781c2f8c11525163c88",
		"session-v1-checksums/published-run": "d9ea09af57ff60e4c17455953482e7a719cf553aedbe9996cb1a00877d02e19a",
	} {
		data, err := os.ReadFile(filepath.Join(dir, kind+".json"))
		if err != nil {
			t.Fatal(err)
		}
		var s vectors.Scenario
		if err := vectors.Decode(data, &s); err != nil {
			t.Fatal(err)
		}
		// Both outputs have a field of this name.
		var out struct {
			SHA256 vectors.Hex `json:"sha256_hex"`
			Zip    []byte      `json:"zip_b64"`
			Text   string      `json:"signed_text"`
		}
		if err := vectors.Decode(s.Output, &out); err != nil {
			t.Fatal(err)
		}
		if hex.EncodeToString(out.SHA256) != want {
			t.Errorf("%s: %x", kind, out.SHA256)
		}
	}
}
