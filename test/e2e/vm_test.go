package e2e

import (
	"encoding/json"
	"os"
	"strconv"
	"strings"
	"testing"

	"github.com/cape-functions/cape/test/platform"
)

// TestVirtualMachine is the journey in a real machine: its own kernel, AF_VSOCK, an enclave
// image whose measurements the client finds in the document.
func TestVirtualMachine(t *testing.T) {
	flags := platform.InMachine(t, "../..")
	dir := t.TempDir()
	p := start(t, dir, flags...)
	id := p.Deploy(function(t, "where", app(`import os
def cape_handler(d):
    return d + b" from " + os.uname().release.encode()
`)))
	if got := p.Must("run", id, "hello"); !strings.HasPrefix(got, "hello from 6.12.") || !strings.Contains(got, "-cape") {
		t.Errorf("it ran on another kernel than the image's: %q", got)
	}
	if got := p.Must("run", "dev/where", strings.TrimSpace(p.Must("encrypt", "sealed"))); !strings.HasPrefix(got, "sealed from ") {
		t.Errorf("encrypted input: %q", got)
	}
	var image struct{ Measurements map[string]string }
	if err := json.Unmarshal([]byte(p.Must("get-pcrs", flags[3], "-o", "json")), &image); err != nil {
		t.Fatal(err)
	}
	for _, i := range []string{"0", "1", "2"} {
		p.Must("run", id, "x", "--pcr", i+":"+image.Measurements["PCR"+i])
	}
	if r := p.Cape("", "run", id, "x", "--pcr", "0:"+image.Measurements["PCR1"]); r.Code == 0 {
		t.Error("a run in another image than the expected one succeeded")
	}
	if strings.Contains(p.Log.String(), "a layer of the jail cannot be had") {
		t.Errorf("the machine lacks layers of the jail:\n%s", p.Log)
	}
	machine := p.Children()
	if len(machine) == 0 { // QEMU, and a vsock device unless the kernel has one
		t.Errorf("caped has %d children", len(machine))
	}
	p.Stop()
	for _, pid := range machine {
		if _, err := os.Stat("/proc/" + strconv.Itoa(pid)); err == nil {
			t.Errorf("process %d is left", pid)
		}
	}
}
