package vendoring

import (
	"context"
	"errors"
	"fmt"
	"io"
	"path/filepath"
)

// ErrBytecode: this machine lacks the enclave's version of Python.
var ErrBytecode = errors.New("byte code cannot be made")

// compile makes byte code that stands beside its source and is used as long as that has the same content ("checked"): no time of a
// file and no path of this machine is in it. What is no module of this version stays without.
const compile = `
import sys
sys.path.remove("")  # the function's own files are nobody's here
import os, py_compile, warnings
site, version = sys.argv[1:]
if sys.implementation.name != "cpython" or "%d.%d" % sys.version_info[:2] != version:
    sys.exit(3)
warnings.simplefilter("ignore")
os.chdir(site)
for name in sorted(os.path.normpath(os.path.join(at, n)) for at, _, files in os.walk(".") for n in files if n.endswith(".py")):
    py_compile.compile(name, dfile=name, quiet=2, invalidation_mode=py_compile.PycInvalidationMode.CHECKED_HASH)
`

// addBytecode compiles what lies below site by the first Python here that has the target's version.
func addBytecode(ctx context.Context, o Options, python, site string) error {
	site, err := filepath.Abs(site)
	if err != nil {
		return err
	}
	for _, p := range []string{"python" + o.Target.Python, python} {
		if o.Run(ctx, o.Dir, []string{"PYTHONHASHSEED=0"}, io.Discard, p, "-S", "-c", compile, site, o.Target.Python) == nil {
			return nil
		}
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
	}
	return fmt.Errorf("%w: there is no CPython %s here", ErrBytecode, o.Target.Python)
}
