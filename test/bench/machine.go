package main

import (
	"bufio"
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"time"

	"github.com/cape-functions/cape/image/eif"
)

// stages are the lines of the log at which the start of a virtual machine is cut.
var stages = []struct{ message, name string }{
	{"a virtual machine starts", ""},
	{"enclave: machine ready", "kernel, ramdisk, PID 1"},
	{"enclave: runtime starting", "runtime loaded"},
	{"enclave: trust measured and locked", "configured and measured"},
	{"enclave: jails ready", "Python up, KMS asked meanwhile"},
	{"enclave: serving", "listening"},
}

// machine: from starting QEMU to the first answered run, against the same kernel whose init
// only prints.
func (b *bench) machine() error {
	const row, target = "VM, start to first answered run", "<= 3"
	image := filepath.Join(b.bin, "cape-runtime-dev.eif")
	if _, err := os.Stat(image); err != nil {
		b.add(row, "s", target, "not measured: make image vm-tools", 0, 0)
		return nil
	}
	dir := filepath.Join(b.tmp, "vm")
	first, err := b.machineStart(dir, image) // the key is made, the function deployed
	if err != nil {
		return err
	}
	function := filepath.Join(b.tmp, "echo")
	if err := errors.Join(os.MkdirAll(function, 0o755), os.WriteFile(filepath.Join(function, "app.py"), []byte(echoApp), 0o644)); err != nil {
		return err
	}
	if err := errors.Join(first.cape(b, "deploy", function), first.stop()); err != nil {
		return err
	}
	boot, err := b.printingInit(image)
	if err != nil {
		return err
	}
	var ours [][]float64 // the stages of each start, and the whole
	var peer []float64
	accel := ""
	for range machineStarts {
		one, used, err := b.machineStages(dir, image)
		if err != nil {
			return err
		}
		began := time.Now()
		if err := boot(used); err != nil {
			return err
		}
		ours, peer, accel = append(ours, one), append(peer, time.Since(began).Seconds()), used
	}
	b.add(row, "s", target, "on "+accel+"; peer: the same kernel, an init that prints; medians", column(ours, len(stages)), medianOf(peer))
	for i, s := range stages[1:] {
		b.add("  "+s.name, "s", "", "", column(ours, i), 0)
	}
	b.add("  first run", "s", "", "", column(ours, len(stages)-1), 0)
	return nil
}

// machineStarts is how often a machine is started, ours and the peer's in turn.
const machineStarts = 3

func column(rows [][]float64, i int) float64 {
	var all []float64
	for _, r := range rows {
		all = append(all, r[i])
	}
	return medianOf(all)
}

func medianOf(all []float64) float64 {
	slices.Sort(all)
	return all[len(all)/2]
}

// machineStages starts a machine, has it answer a run, and returns how long each stage took, the run's as the last
// but one and the whole as the last.
func (b *bench) machineStages(dir, image string) (took []float64, accel string, err error) {
	p, err := b.machineStart(dir, image)
	if err != nil {
		return nil, "", err
	}
	err = p.cape(b, "run", "dev/echo", "hello")
	end := time.Now()
	if err = errors.Join(err, p.stop()); err != nil {
		return nil, "", err
	}
	at, err := p.times()
	if err != nil {
		return nil, "", err
	}
	at = append(at, end)
	for i := range at[1:] {
		took = append(took, at[i+1].Sub(at[i]).Seconds())
	}
	return append(took, end.Sub(at[0]).Seconds()), p.accel, nil
}

type machinePlatform struct {
	*platform
	log   *bytes.Buffer
	accel string
}

func (b *bench) machineStart(dir, image string) (*machinePlatform, error) {
	p := &machinePlatform{platform: &platform{dir: dir}, log: &bytes.Buffer{}}
	p.cmd = exec.Command(filepath.Join(b.bin, "caped"), "dev", "--data-dir", dir, "--listen", "127.0.0.1:0", "--enclave", "qemu", "--image", image, "--log-format", "json", "-v")
	p.cmd.Stderr = p.log // read once it has ended
	out, err := p.cmd.StdoutPipe()
	if err != nil {
		return nil, err
	}
	if err := p.cmd.Start(); err != nil {
		return nil, err
	}
	line, err := bufio.NewReader(out).ReadString('\n')
	if err != nil {
		return nil, errors.Join(errors.New("caped dev --enclave qemu did not come up"), err, p.stop(), errors.New(p.log.String()))
	}
	p.url = strings.TrimSpace(strings.TrimPrefix(line, "cape is ready at "))
	return p, nil
}

// cape runs the command line against p.
func (p *machinePlatform) cape(b *bench, args ...string) error {
	cmd := exec.CommandContext(b.ctx, filepath.Join(b.bin, "cape"), args...)
	cmd.Env = []string{"HOME=" + p.dir, "CAPE_ENCLAVE_HOST=" + p.url, "CAPE_AUTH_HOST=" + p.url,
		"CAPE_ROOT_CERT=" + filepath.Join(p.dir, "root.pem"), "CAPE_LOCAL_CONFIG_DIR=" + filepath.Join(p.dir, "config")}
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("cape %s: %w\n%s", args[0], err, out)
	}
	return nil
}

// times reads the stages' times from the log of a platform that has ended.
func (p *machinePlatform) times() ([]time.Time, error) {
	at := make([]time.Time, len(stages))
	for line := range strings.Lines(p.log.String()) {
		var r struct {
			Time       time.Time
			Msg, Accel string
		}
		if json.Unmarshal([]byte(line), &r) != nil {
			continue
		}
		for i, s := range stages {
			if r.Msg == s.message {
				at[i] = r.Time
			}
		}
		if r.Accel != "" {
			p.accel = r.Accel
		}
	}
	if i := slices.IndexFunc(at, time.Time.IsZero); i >= 0 {
		return nil, fmt.Errorf("the log does not say %q", stages[i].message)
	}
	return at, nil
}

// printingInit returns what boots the image's kernel with an init that prints, and waits for that.
func (b *bench) printingInit(image string) (boot func(accel string) error, err error) {
	kernel, program, ramdisk := filepath.Join(b.tmp, "kernel"), filepath.Join(b.tmp, "init"), filepath.Join(b.tmp, "ramdisk")
	var cmdline string
	err = onFile(image, func(r io.Reader) error {
		f, err := os.Create(kernel)
		if err != nil {
			return err
		}
		defer f.Close()
		i, err := eif.Read(b.ctx, r, func(s eif.Section) (io.Writer, error) {
			if s.Kind == eif.Kernel {
				return f, nil
			}
			return nil, nil
		})
		if err == nil {
			cmdline = i.Cmdline
		}
		return err
	})
	if err != nil {
		return nil, err
	}
	if out, err := exec.CommandContext(b.ctx, "go", "build", "-ldflags", "-s -w", "-o", program, "./test/bench/vminit").CombinedOutput(); err != nil {
		return nil, fmt.Errorf("building an init: %w\n%s", err, out)
	}
	content, err := os.ReadFile(program)
	if err != nil {
		return nil, err
	}
	if err := os.WriteFile(ramdisk, archive("init", content), 0o600); err != nil {
		return nil, err
	}
	return func(accel string) error { return b.bootToLine(accel, kernel, ramdisk, cmdline) }, nil
}

func (b *bench) bootToLine(accel, kernel, ramdisk, cmdline string) error {
	cpu := map[string]string{"tcg": "max,-avx2", "kvm": "host"}[accel]
	cmd := exec.CommandContext(b.ctx, "qemu-system-x86_64", "-nodefaults", "-no-user-config", "-display", "none", "-no-reboot",
		"-machine", "microvm,acpi=off,rtc=on,memory-backend=memory", "-accel", accel, "-cpu", cpu, "-object", "memory-backend-memfd,id=memory,share=on,size=3072M",
		"-m", "3072M", "-smp", "2", "-serial", "stdio", "-kernel", kernel, "-initrd", ramdisk, "-append", cmdline+" reboot=t")
	out, err := cmd.StdoutPipe()
	if err != nil {
		return err
	}
	if err := cmd.Start(); err != nil {
		return err
	}
	found := false
	for lines := bufio.NewScanner(out); !found && lines.Scan(); {
		found = strings.Contains(lines.Text(), "init runs")
	}
	err = cmd.Process.Signal(syscall.SIGKILL)
	_ = cmd.Wait() // it says that it was killed
	if !found {
		return errors.Join(errors.New("the peer's init did not print"), err)
	}
	return err
}

// archive is a cpio archive (newc) of one program.
func archive(name string, content []byte) []byte {
	var b bytes.Buffer
	for _, e := range []struct {
		name    string
		mode    int
		content []byte
	}{{name, 0o100755, content}, {"TRAILER!!!", 0, nil}} {
		fmt.Fprintf(&b, "070701%08x%08x%08x%08x%08x%08x%08x%08x%08x%08x%08x%08x%08x", 1, e.mode, 0, 0, 1, 0, len(e.content), 0, 0, 0, 0, len(e.name)+1, 0)
		b.WriteString(e.name + "\x00")
		b.Write(make([]byte, -b.Len()&3))
		b.Write(e.content)
		b.Write(make([]byte, -b.Len()&3))
	}
	return b.Bytes()
}
