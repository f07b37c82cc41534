// Package archtest checks that the folders mean what ARCHITECTURE.md says of
// them: who may import whom, what the trusted code may use, and what shipped
// binaries link.
package archtest

import (
	"bytes"
	"encoding/json"
	"errors"
	"go/ast"
	"go/parser"
	"go/token"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

const module = "github.com/cape-functions/cape/"

type pkg struct {
	ImportPath   string
	Dir          string
	Standard     bool
	Imports      []string
	TestImports  []string
	XTestImports []string
	Deps         []string
	GoFiles      []string
	Doc          string
}

// list runs go list in the module's root for linux/amd64 and any more settings.
func list(t *testing.T, env []string, args ...string) []pkg {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), "go", append([]string{"list", "-json"}, args...)...)
	cmd.Dir = filepath.Join("..", "..")
	cmd.Env = append(os.Environ(), env...)
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("go list: %v\n%s", err, stderr.String())
	}
	var all []pkg
	dec := json.NewDecoder(bytes.NewReader(out))
	for {
		var p pkg
		if err := dec.Decode(&p); errors.Is(err, io.EOF) {
			return all
		} else if err != nil {
			t.Fatal(err)
		}
		all = append(all, p)
	}
}

// local returns the path below the module, or "".
func local(path string) string {
	rest, ok := strings.CutPrefix(path, module)
	if !ok {
		return ""
	}
	return rest
}

func zone(path string) string {
	first, _, _ := strings.Cut(local(path), "/")
	return first
}

func under(path string, folders ...string) bool {
	rest := local(path)
	return slices.ContainsFunc(folders, func(f string) bool { return rest == f || strings.HasPrefix(rest, f+"/") })
}

// mayImport says which folders of the module each zone may use besides its own.
var mayImport = map[string][]string{
	"core":    nil,
	"vsock":   nil,
	"image":   {"core"},
	"client":  {"core", "image/eif"},
	"host":    {"core/wire", "core/attest", "image/eif", "vsock"},
	"enclave": {"core", "vsock"},
}

func TestZones(t *testing.T) {
	packages := list(t, nil, "./...")
	if len(packages) < 25 {
		t.Fatalf("only %d packages were listed: this test would check almost nothing", len(packages))
	}
	seen := map[string]int{}
	for _, p := range packages {
		z := zone(p.ImportPath)
		allowed, known := mayImport[z]
		if !known {
			continue
		}
		seen[z]++
		for _, i := range p.Imports {
			if local(i) != "" && zone(i) != z && !under(i, allowed...) {
				t.Errorf("%s imports %s: %s may use only %v", p.ImportPath, i, z, allowed)
			}
		}
		for _, i := range slices.Concat(p.TestImports, p.XTestImports) {
			if local(i) != "" && zone(i) != z && !under(i, allowed...) && !under(i, "core", "tools/vectorgen/vectors") {
				t.Errorf("tests of %s import %s: another zone's code proves nothing about this one", p.ImportPath, i)
			}
		}
	}
	for _, z := range []string{"core", "client", "host", "enclave"} {
		if seen[z] < 2 {
			t.Errorf("zone %s has %d packages: was the folder renamed?", z, seen[z])
		}
	}
}

func TestCoreDoesNoIO(t *testing.T) {
	forbidden := []string{"net", "os", "log", "flag", "syscall", "time/tzdata", "io/ioutil"}
	thirdParty := []string{"github.com/fxamacker/cbor/v2"}
	for _, p := range list(t, nil, "./core/...") {
		testkit := strings.HasSuffix(p.ImportPath, "/testkit")
		for _, i := range p.Imports {
			first, _, _ := strings.Cut(i, "/")
			switch {
			case i == "log/slog" && local(p.ImportPath) == "core/secret": // so that its types refuse to be logged
			case slices.Contains(forbidden, i) || (first == "net" && i != "net/netip") || first == "log" || first == "os":
				t.Errorf("%s imports %s", p.ImportPath, i)
			case strings.Contains(first, ".") && local(i) == "" && !slices.Contains(thirdParty, i):
				t.Errorf("%s imports %s: not on the list of modules that trusted code may use", p.ImportPath, i)
			}
		}
		if testkit {
			continue
		}
		for _, file := range p.GoFiles {
			if pos := readsClock(t, filepath.Join(p.Dir, file)); pos != "" {
				t.Errorf("%s reads the clock: times are passed in", pos)
			}
		}
	}
}

// readsClock returns where a file uses time.Now, time.Since or time.Until.
func readsClock(t *testing.T, path string) string {
	t.Helper()
	fset := token.NewFileSet()
	f, err := parser.ParseFile(fset, path, nil, 0)
	if err != nil {
		t.Fatal(err)
	}
	found := ""
	ast.Inspect(f, func(n ast.Node) bool {
		s, ok := n.(*ast.SelectorExpr)
		if !ok {
			return true
		}
		if x, ok := s.X.(*ast.Ident); ok && x.Name == "time" && slices.Contains([]string{"Now", "Since", "Until"}, s.Sel.Name) {
			found = fset.Position(n.Pos()).String()
		}
		return found == ""
	})
	return found
}

// binaries are what `make build` ships.
var binaries = []string{"./client/cmd/cape", "./host/cmd/caped", "./host/cmd/vsock-proxy", "./enclave/cmd/cape-runtime", "./enclave/cmd/cape-runtime-dev"}

func TestShippedBinaries(t *testing.T) {
	for _, b := range binaries {
		p := list(t, nil, b)[0]
		for _, d := range p.Deps {
			if d == "testing" || strings.HasSuffix(d, "/testkit") {
				t.Errorf("%s links %s", b, d)
			}
			if z, own := zone(d), zone(p.ImportPath); local(d) != "" && z != own && slices.Contains([]string{"client", "host", "enclave"}, z) {
				t.Errorf("%s links %s of another zone", b, d)
			}
			if b == "./enclave/cmd/cape-runtime" && strings.HasSuffix(d, "/nsm/remote") {
				t.Errorf("the production runtime links the development security module: %s", d)
			}
			if strings.HasPrefix(b, "./enclave") && (strings.HasPrefix(d, "github.com/spf13/") || strings.HasPrefix(d, "gocloud.dev") || strings.HasPrefix(d, "modernc.org/")) {
				t.Errorf("%s links %s: the enclave stays small", b, d)
			}
		}
	}
}

// keyHolders are the host's packages that may hold private keys at all, and why.
var keyHolders = map[string]string{
	"host/internal/devnsm":            "development: signs documents under its own root",
	"host/internal/localkms":          "development: a KMS without AWS",
	"host/internal/devserver/localca": "development: HTTPS on this machine",
	"host/internal/tlsfile":           "TLS of the host's own listeners, which ends outside of enclaves",
	"host/internal/devserver/account": "development: makes the account key of the user whose machine it is",
	"host/internal/identity":          "signs tokens and key sets, which are no authority against the host",
}

func TestHostHoldsNoKeys(t *testing.T) {
	for _, p := range list(t, nil, "./host/...") {
		for _, i := range p.Imports {
			if slices.Contains([]string{"crypto/rsa", "crypto/ecdsa", "crypto/ed25519", "crypto/ecdh", "crypto/hpke", "crypto/mlkem", "crypto/aes", "crypto/cipher"}, i) && !holdsKeys(local(p.ImportPath)) {
				t.Errorf("%s imports %s: only %v may hold keys", p.ImportPath, i, keyHolders)
			}
		}
	}
}

func holdsKeys(path string) bool {
	for holder := range keyHolders {
		if path == holder || strings.HasPrefix(path, holder+"/") {
			return true
		}
	}
	return false
}

func TestOtherPlatforms(t *testing.T) {
	for _, target := range []struct {
		os, arch string
		packages []string
	}{
		{"darwin", "arm64", []string{"./client/..."}},
		{"windows", "amd64", []string{"./client/..."}},
		{"linux", "arm64", []string{"./client/...", "./host/...", "./enclave/..."}},
	} {
		cmd := exec.CommandContext(t.Context(), "go", append([]string{"build", "-o", os.DevNull}, target.packages...)...)
		cmd.Dir = filepath.Join("..", "..")
		cmd.Env = append(os.Environ(), "GOOS="+target.os, "GOARCH="+target.arch, "CGO_ENABLED=0")
		if testing.Short() {
			cmd.Args = append([]string{"go", "list", "-deps"}, target.packages...)
		}
		if out, err := cmd.CombinedOutput(); err != nil {
			t.Errorf("%s/%s: %v\n%s", target.os, target.arch, err, out)
		}
	}
}

func TestPackagesAreDocumented(t *testing.T) {
	for _, p := range list(t, nil, "./...") {
		if p.Doc == "" && len(p.GoFiles) > 0 {
			t.Errorf("%s has no package documentation", p.ImportPath)
		}
		for _, word := range []string{"util", "utils", "common", "shared", "pkg", "types", "helpers"} {
			if slices.Contains(strings.Split(local(p.ImportPath), "/"), word) {
				t.Errorf("%s: a package is named after what it holds", p.ImportPath)
			}
		}
	}
}
