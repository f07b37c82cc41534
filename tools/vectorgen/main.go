// Command vectorgen writes the scenarios of spec/vectors. It builds every byte
// string itself, from the specification and not with the packages that the
// scenarios are for: they are a second opinion. What it writes is the same on
// every run: nothing in it is random.
//
//	go run ./tools/vectorgen            writes spec/vectors
//	go run ./tools/vectorgen -check     fails if spec/vectors is not what it would write
//
// A kind of scenario is one file here with one function, named in kinds.
package main

import (
	"bytes"
	"errors"
	"flag"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"github.com/cape-functions/cape/tools/vectorgen/vectors"
)

// kinds is every kind: its folder below spec/vectors, and who makes it.
func kinds() []kind {
	return []kind{
		{vectors.KindAttestation, attestations},
		{vectors.KindFrame, frames},
		{vectors.KindPublicKey, publicKeys},
		{vectors.KindChecksums, checksums},
		{vectors.KindSignature, signatures},
		{vectors.KindOld, oldEnvelopes},
		{vectors.KindV2, streamEnvelopes},
		{vectors.KindZip, zips},
		{vectors.KindSerdio, serdio},
		{vectors.KindMessage, messages},
		{vectors.KindAttestV2, bindings},
		{vectors.KindOpen, opens},
		{vectors.KindKeySchedule, keySchedules},
		{vectors.KindRecords, recordSequences},
		{vectors.KindManifest, manifests},
		{vectors.KindManifestSignature, manifestSignatures},
		{vectors.KindConfig, configs},
		{vectors.KindReceipt, receipts},
	}
}

type kind struct {
	name string
	make func(*set, *keyring)
}

// set collects the scenarios of one kind; its first error stays.
type set struct {
	kind string
	all  []vectors.Scenario
	err  error
}

func (s *set) ok(name, about string, input, output any) {
	s.add(vectors.New(s.kind, name, about, input, output))
}

func (s *set) fail(name, about string, input any, want string) {
	s.add(vectors.NewFailing(s.kind, name, about, input, want))
}

func (s *set) add(scenario vectors.Scenario, err error) {
	s.all = append(s.all, scenario)
	s.check(err)
}

func (s *set) check(err error) {
	if s.err == nil && err != nil {
		s.err = fmt.Errorf("making %s: %w", s.kind, err)
	}
}

var errStale = errors.New("spec/vectors is stale: run go run ./tools/vectorgen")

func main() {
	dir := flag.String("dir", filepath.Join("spec", "vectors"), "the folder to write")
	check := flag.Bool("check", false, "write nothing; fail if the folder is stale")
	flag.Parse()
	if err := run(*dir, *check); err != nil {
		fmt.Fprintln(os.Stderr, "vectorgen:", err)
		os.Exit(1)
	}
}

func run(dir string, check bool) error {
	want, err := generate()
	if err != nil {
		return err
	}
	return apply(dir, want, check)
}

// apply makes dir hold exactly want, or checks that it does.
func apply(dir string, want map[string][]byte, check bool) error {
	have, err := present(dir)
	if err != nil {
		return err
	}
	if check {
		return compare(have, want)
	}
	for name := range have {
		if _, keep := want[name]; keep {
			continue
		}
		if err := os.Remove(filepath.Join(dir, name)); err != nil {
			return err
		}
	}
	for name, data := range want {
		file := filepath.Join(dir, name)
		if err := os.MkdirAll(filepath.Dir(file), 0o755); err != nil {
			return err
		}
		if err := os.WriteFile(file, data, 0o644); err != nil {
			return err
		}
	}
	return nil
}

// generate makes every file, by its path in spec/vectors.
func generate() (map[string][]byte, error) {
	keys, err := readKeys()
	if err != nil {
		return nil, err
	}
	files := make(map[string][]byte)
	if files[vectors.KeysFile], err = keys.file(); err != nil {
		return nil, err
	}
	for _, k := range kinds() {
		s := &set{kind: k.name}
		k.make(s, keys)
		if s.err != nil {
			return nil, s.err
		}
		for _, scenario := range s.all {
			name := filepath.Join(k.name, scenario.Name+".json")
			if _, twice := files[name]; twice {
				return nil, fmt.Errorf("two scenarios are named %s", name)
			}
			if files[name], err = scenario.Encode(); err != nil {
				return nil, err
			}
		}
	}
	return files, nil
}

// present reads the JSON files below dir; a folder that is not there has none.
func present(dir string) (map[string][]byte, error) {
	files := make(map[string][]byte)
	err := filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if errors.Is(err, fs.ErrNotExist) {
			return nil
		}
		if err != nil || d.IsDir() || !strings.HasSuffix(path, ".json") {
			return err
		}
		name, err := filepath.Rel(dir, path)
		if err != nil {
			return err
		}
		files[name], err = os.ReadFile(path)
		return err
	})
	return files, err
}

func compare(have, want map[string][]byte) error {
	for name, data := range want {
		if !bytes.Equal(have[name], data) {
			return fmt.Errorf("%w: %s", errStale, name)
		}
	}
	for name := range have {
		if _, known := want[name]; !known {
			return fmt.Errorf("%w: %s is of no scenario", errStale, name)
		}
	}
	return nil
}
