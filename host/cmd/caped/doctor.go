package main

import (
	"fmt"
	"os"
	"os/exec"
	"runtime"
	"strings"
	"text/tabwriter"

	"github.com/spf13/cobra"
)

func doctorCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "doctor",
		Short: "Show what this machine offers to enclaves",
		Args:  cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			w := tabwriter.NewWriter(cmd.OutOrStdout(), 0, 0, 2, ' ', 0)
			for _, c := range checks() {
				state := "yes"
				if c.missing != "" {
					state = "no"
				}
				fmt.Fprintf(w, "%s\t%s\t%s\n", c.name, state, c.missing)
			}
			return w.Flush()
		},
	}
}

// check is one line of the doctor's table; missing is empty when all is well.
type check struct{ name, missing string }

func checks() []check {
	out := []check{{"Linux", ""}}
	if runtime.GOOS != "linux" {
		out[0].missing = "enclaves need Linux"
	}
	return append(out,
		pythonCheck(),
		fileCheck("user namespaces", "/proc/self/ns/user", "the kernel has none: enclaves cannot be cut off from the network unless caped runs as root"),
		userNamespaceCheck(),
		fileCheck("cgroup", "/sys/fs/cgroup", "limits are per process only"),
		fileCheck("AF_VSOCK", "/dev/vsock", "needed for virtual machines, not for --enclave process"),
		fileCheck("KVM", "/dev/kvm", "virtual machines would be emulated"),
		fileCheck("Nitro Enclaves", "/dev/nitro_enclaves", "this is no parent instance; --enclave process works"),
	)
}

func fileCheck(name, path, missing string) check {
	if _, err := os.Stat(path); err == nil {
		return check{name, ""}
	}
	return check{name, missing}
}

func pythonCheck() check {
	out, err := exec.Command("python3", "-I", "-c", "import sys; print(sys.version_info >= (3, 9))").Output()
	if err != nil || strings.TrimSpace(string(out)) != "True" {
		return check{"Python 3.9 or newer", "install it, or name one with --python"}
	}
	return check{"Python 3.9 or newer", ""}
}

func userNamespaceCheck() check {
	c := check{"namespaces for this user", "refused: see user.max_user_namespaces and the security modules of this system"}
	cmd := exec.Command("/proc/self/exe", "version")
	cmd.SysProcAttr = newUserNamespace()
	if cmd.Run() == nil {
		c.missing = ""
	}
	return c
}
