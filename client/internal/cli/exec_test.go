package cli_test

import (
	"errors"
	"os"
	"os/exec"

	"github.com/rogpeppe/go-internal/testscript"
)

// execCommand prepares a command in the script's environment, with an stdin that says
// nothing.
func execCommand(ts *testscript.TestScript, args []string) *exec.Cmd {
	cmd := exec.Command(args[0], args[1:]...)
	cmd.Dir = ts.MkAbs(".")
	cmd.Env = []string{"PATH=" + ts.Getenv("PATH")}
	for _, name := range []string{"HOME", "CAPE_ENCLAVE_HOST", "CAPE_ROOT_CERT", "CAPE_LOCAL_CONFIG_DIR", "CAPE_PROTOCOL", "TESTSCRIPT_COMMAND"} {
		cmd.Env = append(cmd.Env, name+"="+ts.Getenv(name))
	}
	r, w, err := os.Pipe()
	ts.Check(err)
	ts.Defer(func() { _ = errors.Join(r.Close(), w.Close()) })
	cmd.Stdin = r
	return cmd
}
