package vendoring_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/cape-functions/cape/client/internal/vendoring"
)

// pip stands in for the real one: it installs files.
type pip struct {
	files  map[string]string
	fail   bool
	absent bool
	args   []string
}

func (p *pip) run(_ context.Context, _ string, _ []string, out io.Writer, _ string, args ...string) error {
	if args[2] == "--version" {
		if p.absent {
			return errors.New("exit status 1")
		}
		return nil
	}
	p.args = args
	if p.fail {
		fmt.Fprintln(out, "Collecting lib\nERROR: No matching distribution found for lib")
		return errors.New("exit status 1")
	}
	site := args[slices.Index(args, "--target")+1]
	for name, text := range p.files {
		path := filepath.Join(site, name)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			return err
		}
		if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
			return err
		}
	}
	return nil
}

func folder(t *testing.T, files map[string]string) string {
	t.Helper()
	dir := t.TempDir()
	for name, text := range files {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	return dir
}

func tree(t *testing.T, dir string) []string {
	t.Helper()
	var out []string
	err := fs.WalkDir(os.DirFS(dir), ".", func(name string, d fs.DirEntry, err error) error {
		if err == nil && !d.IsDir() {
			out = append(out, name)
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return out
}

func target() vendoring.Target { return vendoring.Target{Python: "3.11", Platform: "linux-x86_64"} }

func TestVendor(t *testing.T) {
	dir := folder(t, map[string]string{"app.py": "", "requirements.txt": "# needed\nlib\n"})
	p := &pip{files: map[string]string{
		"lib/__init__.py": "1", "lib/__pycache__/x.pyc": "", "lib/old.pyc": "", "lib/RECORD": "kept", "bin/lib": "#!/home/ann/python",
		"lib-1.0.dist-info/METADATA": "", "lib-1.0.dist-info/RECORD": "", "lib-1.0.dist-info/INSTALLER": "", "lib-1.0.dist-info/direct_url.json": "", "single.py": "",
	}}
	o := vendoring.Options{Dir: dir, Target: target(), Run: p.run, Log: io.Discard}
	r, err := vendoring.Vendor(t.Context(), o)
	if err != nil {
		t.Fatal(err)
	}
	want := &vendoring.Result{Entries: []string{"lib", "lib-1.0.dist-info", "single.py"}, Packages: []string{"lib==1.0"}}
	if diff := cmp.Diff(want, r); diff != "" {
		t.Error(diff)
	}
	own := []string{"app.py", "cape-vendor.txt"}
	if diff := cmp.Diff(append(own, "lib/RECORD", "lib/__init__.py", "lib-1.0.dist-info/METADATA", "requirements.txt", "single.py"), tree(t, dir)); diff != "" {
		t.Error(diff)
	}
	for _, arg := range []string{"--only-binary=:all:", "--no-compile", "3.11", "cp", "manylinux_2_17_x86_64", "manylinux2014_x86_64", "linux_x86_64"} {
		if !slices.Contains(p.args, arg) {
			t.Errorf("pip was not given %s", arg)
		}
	}
	// Another version takes the place of the first; nothing else is touched.
	p.files = map[string]string{"lib/__init__.py": "2", "lib-2.0.dist-info/METADATA": ""}
	if _, err := vendoring.Vendor(t.Context(), o); err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(append(own, "lib/__init__.py", "lib-2.0.dist-info/METADATA", "requirements.txt"), tree(t, dir)); diff != "" {
		t.Error(diff)
	}
}

// TestVendorBytecode: the same sources give the same byte code wherever they lie, and what is no module of this Python stays without.
func TestVendorBytecode(t *testing.T) {
	real := func(seed string) vendoring.Runner {
		p := &pip{files: map[string]string{"lib/__init__.py": "a = {'x', 'y', 'z'}\ndef f(b): return b in {'p', 'q', 'r', 's'}\n", "lib/old.py": "print 'x'\n", "lib-1.0.dist-info/METADATA": ""}}
		return func(ctx context.Context, dir string, env []string, out io.Writer, name string, args ...string) error {
			if args[0] != "-S" {
				return p.run(ctx, dir, env, out, name, args...)
			}
			cmd := exec.CommandContext(ctx, name, args...)
			cmd.Dir, cmd.Env = dir, append(append(os.Environ(), "PYTHONHASHSEED="+seed, "PYTHONDONTWRITEBYTECODE=1"), env...)
			return cmd.Run()
		}
	}
	version, err := exec.Command("python3", "-c", "import sys; print('%d.%d' % sys.version_info[:2], end='')").Output()
	if err != nil {
		t.Fatal(err)
	}
	var first []byte
	for _, seed := range []string{"1", "2"} {
		dir := folder(t, map[string]string{"app.py": "", "os.py": "raise SystemExit(9)", "requirements.txt": "lib\n"})
		run := real(seed)
		o := vendoring.Options{Dir: dir, Target: vendoring.Target{Python: string(version), Platform: "linux-x86_64"}, Run: run, Bytecode: true}
		if _, err := vendoring.Vendor(t.Context(), o); err != nil {
			t.Fatal(err)
		}
		made, err := filepath.Glob(filepath.Join(dir, "lib/__pycache__/*"))
		if err != nil || len(made) != 1 || !strings.HasPrefix(filepath.Base(made[0]), "__init__.cpython-") {
			t.Fatalf("%v, %v", made, err)
		}
		data, err := os.ReadFile(made[0])
		if err != nil || bytes.Contains(data, []byte(dir)) || first != nil && !bytes.Equal(data, first) {
			t.Errorf("%q, %v: not the same as %q", data, err, first)
		}
		if first = data; data[4] != 3 { // a hash of the source, to be compared
			t.Errorf("flags %v", data[4:8])
		}
	}
	run := real("1")
	o := vendoring.Options{Dir: folder(t, map[string]string{"requirements.txt": "lib\n"}), Target: vendoring.Target{Python: "3.99", Platform: "linux-x86_64"}, Run: run, Bytecode: true}
	if _, err := vendoring.Vendor(t.Context(), o); !errors.Is(err, vendoring.ErrBytecode) {
		t.Errorf("another version: %v", err)
	}
}

func TestVendorRefuses(t *testing.T) {
	files := func(change map[string]string) map[string]string {
		m := map[string]string{"app.py": "mine", "requirements.txt": "lib"}
		maps.Copy(m, change)
		return m
	}
	lib := map[string]string{"lib/__init__.py": ""}
	for name, tc := range map[string]struct {
		files  map[string]string
		pip    pip
		target vendoring.Target
		want   error
	}{
		"no requirements":             {map[string]string{"app.py": "mine"}, pip{files: lib}, target(), vendoring.ErrRequirements},
		"only comments":               {files(map[string]string{"requirements.txt": "\n # x\n"}), pip{files: lib}, target(), vendoring.ErrRequirements},
		"no pip":                      {files(nil), pip{absent: true}, target(), vendoring.ErrPip},
		"pip fails":                   {files(nil), pip{fail: true}, target(), vendoring.ErrInstall},
		"pip does nothing":            {files(nil), pip{}, target(), vendoring.ErrInstall},
		"own file in the way":         {files(map[string]string{"lib": "mine"}), pip{files: lib}, target(), vendoring.ErrConflict},
		"app.py from a package":       {files(nil), pip{files: map[string]string{"app.py": "theirs"}}, target(), vendoring.ErrConflict},
		"app.py in the list":          {files(map[string]string{"cape-vendor.txt": "app.py\n../x\n.\n/etc\n"}), pip{files: map[string]string{"app.py": "theirs"}}, target(), vendoring.ErrConflict},
		"Python is an option":         {files(nil), pip{files: lib}, vendoring.Target{Python: "--help", Platform: "linux-x86_64"}, vendoring.ErrTarget},
		"platform is an option":       {files(nil), pip{files: lib}, vendoring.Target{Python: "3.11", Platform: "-r/etc/passwd"}, vendoring.ErrTarget},
		"the server names no Python ": {files(nil), pip{files: lib}, vendoring.Target{}, vendoring.ErrTarget},
	} {
		t.Run(name, func(t *testing.T) {
			dir := folder(t, tc.files)
			before := tree(t, dir)
			_, err := vendoring.Vendor(t.Context(), vendoring.Options{Dir: dir, Target: tc.target, Run: tc.pip.run})
			if !errors.Is(err, tc.want) {
				t.Errorf("error %v, want %v", err, tc.want)
			}
			if diff := cmp.Diff(before, tree(t, dir)); diff != "" {
				t.Error("the folder changed: " + diff)
			}
			if text, err := os.ReadFile(filepath.Join(dir, "app.py")); err != nil || string(text) != "mine" {
				t.Errorf("app.py is now %q, %v", text, err)
			}
		})
	}
}

func TestVendorContext(t *testing.T) {
	dir := folder(t, map[string]string{"requirements.txt": "lib"})
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	slow := func(ctx context.Context, _ string, _ []string, _ io.Writer, _ string, _ ...string) error {
		return ctx.Err()
	}
	if _, err := vendoring.Vendor(ctx, vendoring.Options{Dir: dir, Target: target(), Run: slow}); !errors.Is(err, context.Canceled) {
		t.Errorf("error %v, want Canceled", err)
	}
}

func TestListIsReadable(t *testing.T) {
	dir := folder(t, map[string]string{"requirements.txt": "lib"})
	p := &pip{files: map[string]string{"lib/__init__.py": ""}}
	if _, err := vendoring.Vendor(t.Context(), vendoring.Options{Dir: dir, Target: target(), Run: p.run}); err != nil {
		t.Fatal(err)
	}
	text, err := os.ReadFile(filepath.Join(dir, vendoring.ListFile))
	if err != nil || !strings.HasSuffix(string(text), "\nlib\n") {
		t.Errorf("%q, %v", text, err)
	}
}
