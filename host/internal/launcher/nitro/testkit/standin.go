// Package testkit has a stand-in for nitro-cli: an executable that speaks its
// JSON and keeps a list of enclaves in a file. Nothing is ever booted; a test
// serves an enclave's ports itself.
package testkit

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"
)

// environment names the directory in which the stand-in keeps everything.
const environment = "CAPE_TEST_NITRO_CLI"

// Enclave is an element of describe-enclaves.
type Enclave struct {
	EnclaveName  string
	EnclaveID    string
	ProcessID    int
	EnclaveCID   uint32
	NumberOfCPUs int
	CPUIDs       []int
	MemoryMiB    int
	State        string
	Flags        string
	Measurements map[string]string
}

// Main is the stand-in, when this process was started as it; it does not return
// then. Call it first in TestMain.
func Main() {
	dir := os.Getenv(environment)
	if dir == "" {
		return
	}
	if err := (&CLI{dir: dir}).main(os.Args[1:], os.Stdout, os.Stderr); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	os.Exit(0)
}

// CLI is a stand-in and what it was told.
type CLI struct {
	// Path is the executable.
	Path string
	dir  string
}

// New makes a stand-in whose enclaves are measured as given. The test's own
// binary plays it: see Main.
func New(t testing.TB, measurements map[string]string) *CLI {
	t.Helper()
	c := &CLI{dir: t.TempDir()}
	c.Path = filepath.Join(c.dir, "nitro-cli")
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	script := fmt.Sprintf("#!/bin/sh\n%s='%s' exec '%s' \"$@\"\n", environment, c.dir, self)
	if err := os.WriteFile(c.Path, []byte(script), 0o700); err != nil {
		t.Fatal(err)
	}
	c.write(t, "measurements", measurements)
	c.write(t, "enclaves", []Enclave{})
	return c
}

func (c *CLI) write(t testing.TB, name string, v any) {
	t.Helper()
	b, err := json.Marshal(v)
	if err == nil {
		err = os.WriteFile(filepath.Join(c.dir, name), b, 0o600)
	}
	if err != nil {
		t.Fatal(err)
	}
}

// Fail makes a command write text to standard error and fail; an empty text
// makes it work again.
func (c *CLI) Fail(t testing.TB, command, text string) { t.Helper(); c.write(t, "fail-"+command, text) }

// Hang makes a command take that long.
func (c *CLI) Hang(t testing.TB, command string, d time.Duration) {
	t.Helper()
	c.write(t, "hang-"+command, d)
}

// Say makes a command print text in the place of its answer.
func (c *CLI) Say(t testing.TB, command, text string) { t.Helper(); c.write(t, "say-"+command, text) }

// Measure changes what the next enclaves are measured as.
func (c *CLI) Measure(t testing.TB, m map[string]string) { t.Helper(); c.write(t, "measurements", m) }

// Debug makes the next enclaves come up in debug mode.
func (c *CLI) Debug(t testing.TB) { t.Helper(); c.write(t, "flags", "DEBUG_MODE") }

// Enclaves returns what runs.
func (c *CLI) Enclaves(t testing.TB) []Enclave {
	t.Helper()
	var all []Enclave
	if err := c.read("enclaves", &all); err != nil {
		t.Fatal(err)
	}
	return all
}

// Set replaces what runs: the enclaves that are left out have ended.
func (c *CLI) Set(t testing.TB, all []Enclave) {
	t.Helper()
	unlock, err := c.lock()
	if err != nil {
		t.Fatal(err)
	}
	defer unlock()
	c.write(t, "enclaves", all)
}

// Calls returns the command lines so far.
func (c *CLI) Calls(t testing.TB) []string {
	t.Helper()
	b, err := os.ReadFile(filepath.Join(c.dir, "calls"))
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		t.Fatal(err)
	}
	return strings.Split(strings.TrimSpace(string(b)), "\n")
}

func (c *CLI) read(name string, v any) error {
	b, err := os.ReadFile(filepath.Join(c.dir, name))
	if err != nil {
		return err
	}
	return json.Unmarshal(b, v)
}

func (c *CLI) lock() (func(), error) {
	f, err := os.OpenFile(filepath.Join(c.dir, "lock"), os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return nil, err
	}
	if err := syscall.Flock(int(f.Fd()), syscall.LOCK_EX); err != nil {
		return nil, errors.Join(err, f.Close())
	}
	return func() { _ = f.Close() }, nil
}

func (c *CLI) main(args []string, stdout, stderr io.Writer) error {
	if len(args) == 0 {
		return errors.New("usage: nitro-cli COMMAND")
	}
	unlock, err := c.lock()
	if err != nil {
		return err
	}
	defer unlock()
	if err := c.record(args); err != nil {
		return err
	}
	answer, err := c.answer(args, stderr)
	var hang time.Duration
	if c.read("hang-"+args[0], &hang) == nil && hang > 0 {
		unlock() // after it acted: an enclave can come up late
		time.Sleep(hang)
	}
	if err != nil {
		return err
	}
	var say string
	if c.read("say-"+args[0], &say) == nil && say != "" {
		_, err := io.WriteString(stdout, say)
		return err
	}
	e := json.NewEncoder(stdout)
	e.SetIndent("", "  ")
	return e.Encode(answer)
}

func (c *CLI) record(args []string) error {
	f, err := os.OpenFile(filepath.Join(c.dir, "calls"), os.O_WRONLY|os.O_APPEND|os.O_CREATE, 0o600)
	if err != nil {
		return err
	}
	_, err = fmt.Fprintln(f, strings.Join(args, " "))
	return errors.Join(err, f.Close())
}

func (c *CLI) answer(args []string, stderr io.Writer) (any, error) {
	var fail string
	if c.read("fail-"+args[0], &fail) == nil && fail != "" {
		return nil, errors.New(fail)
	}
	var all []Enclave
	if err := c.read("enclaves", &all); err != nil {
		return nil, err
	}
	options := map[string]string{}
	for i := 1; i+1 < len(args); i += 2 {
		options[strings.TrimPrefix(args[i], "--")] = args[i+1]
	}
	switch args[0] {
	case "run-enclave":
		return c.start(all, options, stderr)
	case "describe-enclaves":
		return all, nil
	case "terminate-enclave":
		return c.terminate(all, options)
	}
	return nil, fmt.Errorf("error: The subcommand '%s' wasn't recognized", args[0])
}

func (c *CLI) start(all []Enclave, o map[string]string, stderr io.Writer) (any, error) {
	cid, err1 := strconv.ParseUint(o["enclave-cid"], 10, 32)
	cpus, err2 := strconv.Atoi(o["cpu-count"])
	memory, err3 := strconv.Atoi(o["memory"])
	if err := errors.Join(err1, err2, err3); err != nil {
		return nil, err
	}
	e := Enclave{EnclaveName: o["enclave-name"], EnclaveID: fmt.Sprintf("i-0123456789abcdef0-enc%x", cid), ProcessID: os.Getpid(),
		EnclaveCID: uint32(cid), NumberOfCPUs: cpus, CPUIDs: []int{1, 3}, MemoryMiB: memory, State: "RUNNING", Flags: "NONE"}
	if err := c.read("measurements", &e.Measurements); err != nil {
		return nil, err
	}
	if err := c.read("flags", &e.Flags); err != nil && !errors.Is(err, os.ErrNotExist) {
		return nil, err
	}
	fmt.Fprintln(stderr, "Start allocating memory...")
	fmt.Fprintf(stderr, "Started enclave with enclave-cid: %d, memory: %d MiB, cpu-ids: [1, 3]\n", cid, memory)
	return map[string]any{"EnclaveName": e.EnclaveName, "EnclaveID": e.EnclaveID, "ProcessID": e.ProcessID, "EnclaveCID": e.EnclaveCID,
		"NumberOfCPUs": cpus, "CPUIDs": e.CPUIDs, "MemoryMiB": memory}, c.save(append(all, e))
}

func (c *CLI) terminate(all []Enclave, o map[string]string) (any, error) {
	i := slices.IndexFunc(all, func(e Enclave) bool { return e.EnclaveID == o["enclave-id"] || e.EnclaveName == o["enclave-name"] })
	if i < 0 {
		return nil, errors.New("[ E39 ] Enclave process connection failure.\n\nFor more details, please visit https://docs.aws.amazon.com/")
	}
	e := all[i]
	return map[string]any{"EnclaveName": e.EnclaveName, "EnclaveID": e.EnclaveID, "Terminated": true}, c.save(slices.Delete(all, i, i+1))
}

func (c *CLI) save(all []Enclave) error {
	b, err := json.Marshal(all)
	if err != nil {
		return err
	}
	return os.WriteFile(filepath.Join(c.dir, "enclaves"), b, 0o600)
}
