// Command tcbdeps keeps the trusted code from growing unseen. It writes
// enclave/DEPS.txt: every module and every package outside the standard library
// that the runtimes link. With -check it fails when the file is stale. With
// -lines N it prints how many lines of code enclave/ has, folder by folder, and
// fails when they are more than N.
package main

import (
	"bytes"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"slices"
	"strings"
)

const file = "enclave/DEPS.txt"

func main() {
	check := flag.Bool("check", false, "fail when "+file+" is stale")
	most := flag.Int("lines", 0, "count the lines of code in enclave/ and fail when they are more")
	flag.Parse()
	err := run(*check)
	if *most > 0 {
		err = lines(*most)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "tcbdeps:", err)
		os.Exit(1)
	}
}

func run(check bool) error {
	text, err := describe()
	if err != nil {
		return err
	}
	if !check {
		return os.WriteFile(file, text, 0o644)
	}
	have, err := os.ReadFile(file)
	if err != nil {
		return err
	}
	if !bytes.Equal(have, text) {
		return errors.New(file + " is stale: run go run ./tools/tcbdeps, and look at what changed")
	}
	return nil
}

func lines(most int) error {
	c, err := countLines("enclave", 3)
	if err != nil {
		return err
	}
	if err := c.print(os.Stdout); err != nil {
		return err
	}
	if n := c.total(); n > most {
		return fmt.Errorf("enclave/ has %d lines of code, more than %d: take something out before more goes in", n, most)
	}
	return nil
}

func describe() ([]byte, error) {
	var b bytes.Buffer
	b.WriteString("# What the runtimes link beside Go's standard library. Written by tools/tcbdeps; do not edit.\n")
	for _, binary := range []string{"cape-runtime", "cape-runtime-dev"} {
		packages, err := list("./enclave/cmd/" + binary)
		if err != nil {
			return nil, err
		}
		fmt.Fprintf(&b, "\n%s\n", binary)
		module := ""
		for _, p := range packages {
			name, path, _ := strings.Cut(p, "\t")
			if name != module {
				module = name
				fmt.Fprintf(&b, "  %s\n", module)
			}
			fmt.Fprintf(&b, "    %s\n", path)
		}
	}
	return b.Bytes(), nil
}

// list returns "module version<TAB>package" of everything linked, in order,
// for linux/amd64.
func list(target string) ([]string, error) {
	cmd := exec.Command("go", "list", "-deps", "-f", `{{with .Module}}{{.Path}}{{with .Version}} {{.}}{{end}}{{"\t"}}{{end}}{{if not .Standard}}{{.ImportPath}}{{end}}`, target)
	cmd.Env = append(os.Environ(), "GOOS=linux", "GOARCH=amd64", "CGO_ENABLED=0")
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		return nil, fmt.Errorf("%w: %s", err, stderr.String())
	}
	var all []string
	for line := range strings.Lines(string(out)) {
		if line = strings.TrimSpace(line); line != "" {
			all = append(all, line)
		}
	}
	slices.Sort(all)
	return slices.Compact(all), nil
}
