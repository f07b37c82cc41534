package process

import (
	"bytes"
	"context"
	"crypto/sha512"
	"encoding/json"
	"errors"
	"fmt"
	"hash"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"sort"
	"strings"
	"time"

	"github.com/cape-functions/cape/core/attest/nitro"
)

// interpreter is what a Python says of itself.
type interpreter struct {
	Executable string `json:"executable"`
	Stdlib     string `json:"stdlib"`
	Version    string `json:"version"`
	Platform   string `json:"platform"`
}

const describePython = `import json, sys, sysconfig
print(json.dumps({"executable": sys.executable, "stdlib": sysconfig.get_path("stdlib"),
  "version": "%d.%d" % sys.version_info[:2], "platform": sysconfig.get_platform(), "ok": sys.version_info >= (3, 9)}))`

// findInterpreter asks the Python at path where it really lives: a pyenv shim
// or a virtual environment is not the interpreter itself.
func findInterpreter(ctx context.Context, path string) (*interpreter, error) {
	ctx, cancel := context.WithTimeout(ctx, 30*time.Second)
	defer cancel()
	cmd := exec.CommandContext(ctx, path, "-I", "-c", describePython)
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		return nil, fmt.Errorf("asking %s for its version: %w (%s); name a Python of 3.9 or newer with --python", path, err, strings.TrimSpace(stderr.String()))
	}
	var answer struct {
		interpreter
		OK bool `json:"ok"`
	}
	if err := json.Unmarshal(out, &answer); err != nil {
		return nil, fmt.Errorf("asking %s for its version: %w", path, err)
	}
	if !answer.OK {
		return nil, fmt.Errorf("%s is Python %s; 3.9 or newer is needed: name one with --python", path, answer.Version)
	}
	return &answer.interpreter, nil
}

// measure computes PCR0-2 of a runtime and an interpreter by the formula of
// enclave image files: SHA-384 over 48 zero bytes and the SHA-384 of the
// content. The content of PCR1 is the interpreter (its executable and standard
// library), that of PCR2 the runtime with the worker files it embeds, that of
// PCR0 both.
func measure(ctx context.Context, runtime string, py *interpreter) (map[int]nitro.PCR, error) {
	all, one, two := sha512.New384(), sha512.New384(), sha512.New384()
	if err := hashFile(io.MultiWriter(all, one), py.Executable); err != nil {
		return nil, err
	}
	if err := hashTree(ctx, io.MultiWriter(all, one), py.Stdlib); err != nil {
		return nil, err
	}
	if err := hashFile(io.MultiWriter(all, two), runtime); err != nil {
		return nil, err
	}
	pcrs := map[int]nitro.PCR{}
	for i, h := range []hash.Hash{all, one, two} {
		pcrs[i] = nitro.Extend(nitro.PCR{}, h.Sum(nil))
	}
	return pcrs, nil
}

// hashFile writes the file's length and content.
func hashFile(w io.Writer, path string) error {
	f, err := os.Open(path)
	if err != nil {
		return fmt.Errorf("measuring: %w", err)
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return fmt.Errorf("measuring: %w", err)
	}
	fmt.Fprintf(w, "%d\n", info.Size())
	n, err := io.Copy(w, f)
	if err != nil {
		return fmt.Errorf("measuring: %w", err)
	}
	if n != info.Size() {
		return fmt.Errorf("measuring %s: it changed meanwhile", path)
	}
	return nil
}

// hashTree writes names and contents of the modules below dir, in order. Byte
// code caches and installed packages are no part of a standard library.
func hashTree(ctx context.Context, w io.Writer, dir string) error {
	var files []string
	err := filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		switch {
		case err != nil:
			return err
		case d.IsDir() && (d.Name() == "__pycache__" || d.Name() == "site-packages" || d.Name() == "dist-packages" || d.Name() == "test"):
			return filepath.SkipDir
		case d.Type().IsRegular() && (strings.HasSuffix(path, ".py") || strings.HasSuffix(path, ".so")):
			files = append(files, path)
		}
		return ctx.Err()
	})
	if err != nil {
		return fmt.Errorf("measuring %s: %w", dir, err)
	}
	if len(files) == 0 {
		return errors.New("measuring: " + dir + " holds no standard library; name another interpreter with --python")
	}
	sort.Strings(files)
	for _, path := range files {
		rel, err := filepath.Rel(dir, path)
		if err != nil {
			return fmt.Errorf("measuring: %w", err)
		}
		fmt.Fprintf(w, "%q ", rel)
		if err := hashFile(w, path); err != nil {
			return err
		}
	}
	return nil
}
