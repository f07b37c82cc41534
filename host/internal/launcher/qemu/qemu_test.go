package qemu

import (
	"bytes"
	"context"
	"debug/elf"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/cape-functions/cape/core/wire"
	"github.com/cape-functions/cape/host/internal/devnsm"
	"github.com/cape-functions/cape/host/internal/launcher"
	"github.com/cape-functions/cape/host/internal/launcher/child"
	"github.com/cape-functions/cape/image/eif"
)

// TestMain plays QEMU and the vsock device when it is started under their names.
func TestMain(m *testing.M) {
	switch filepath.Base(os.Args[0]) {
	case "qemu-system-x86_64":
		os.Exit(playQEMU(os.Args[1:]))
	case "vhost-device-vsock":
		os.Exit(playDevice(os.Args[1:]))
	}
	os.Exit(m.Run())
}

func argument(args []string, name string) string {
	if i := slices.Index(args, name); i >= 0 && i+1 < len(args) {
		return args[i+1]
	}
	return ""
}

// playQEMU writes what it was given where the test finds it, and lives as its kernel says.
func playQEMU(args []string) int {
	if len(os.Environ()) > 0 {
		fmt.Println("the environment is not empty")
		return 1
	}
	kernel, err := os.ReadFile(argument(args, "-kernel"))
	if err != nil {
		fmt.Println(err)
		return 1
	}
	behaviour := string(kernel)
	if argument(args, "-accel") == "kvm" && argument(args, "-append") != cmdline+added {
		switch { // the probe
		case strings.Contains(behaviour, "kvm-dies"):
			return 1
		case strings.Contains(behaviour, "kvm-hangs"):
			time.Sleep(time.Minute)
		}
		fmt.Println(proof)
		time.Sleep(time.Minute)
	}
	fmt.Println("a kernel's line")
	fmt.Println(`{"time":"2026-01-01T00:00:00Z","level":"INFO","msg":"runtime starting"}`)
	if strings.Contains(behaviour, "ends well") {
		fmt.Println(`{"msg":"runtime stopped","stage":"done"}`)
		fmt.Println(`{"msg":"machine ending","stage":"done"}`)
		return 0
	}
	if strings.Contains(behaviour, "ends") {
		fmt.Println(`{"msg":"machine ending","stage":"entropy"}`)
		return 0
	}
	dir := filepath.Dir(argument(args, "-kernel"))
	ramdisk, err := os.ReadFile(argument(args, "-initrd"))
	if err == nil {
		err = os.WriteFile(filepath.Join(dir, "ramdisk-seen"), ramdisk, 0o600)
	}
	if err == nil {
		text, _ := json.Marshal(args)
		err = os.WriteFile(filepath.Join(dir, "args"), text, 0o600)
	}
	if err != nil {
		fmt.Println(err)
		return 1
	}
	time.Sleep(time.Minute)
	return 0
}

// playDevice is the device and the guest behind it: it connects to its security module, asks for its boot message, and
// answers at the session port with what it got.
func playDevice(args []string) int {
	uds := argument(args, "--uds-path")
	if err := os.WriteFile(argument(args, "--socket"), nil, 0o600); err != nil {
		return 1
	}
	l, err := net.Listen("unix", uds)
	if err != nil {
		return 1
	}
	module, err := net.Dial("unix", uds+"_"+strconv.Itoa(wire.PortDevNSM))
	if err != nil {
		return 1
	}
	defer module.Close()
	for {
		c, err := l.Accept()
		if err != nil {
			return 1
		}
		go func() {
			defer c.Close()
			b := make([]byte, 64)
			n, _ := c.Read(b)
			if string(b[:n]) != "CONNECT "+strconv.Itoa(wire.PortSession)+"\n" {
				return
			}
			up, err := net.Dial("unix", uds+"_"+strconv.Itoa(wire.PortBoot))
			if err != nil {
				return
			}
			defer up.Close()
			message, _ := io.ReadAll(up)
			fmt.Fprintf(c, "OK 1\n%s", message)
			io.Copy(io.Discard, c)
		}()
	}
}

const cmdline = "console=ttyS0 cape.development"

// world is a launcher with stand-ins for tools, and an image whose kernel says how they behave.
func world(t *testing.T, kernel string, change ...func(*eif.Parts)) (*Launcher, *safe, string) {
	t.Helper()
	dir := t.TempDir()
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	tools := filepath.Join(dir, "tools")
	if err := os.Mkdir(tools, 0o700); err != nil {
		t.Fatal(err)
	}
	for name := range needs {
		if err := os.Symlink(self, filepath.Join(tools, name)); err != nil {
			t.Fatal(err)
		}
	}
	t.Setenv("PATH", tools)
	image := filepath.Join(dir, "dev.eif")
	writeImage(t, image, kernel, change...)
	authority, err := devnsm.OpenAuthority(filepath.Join(dir, "authority"), time.Now)
	if err != nil {
		t.Fatal(err)
	}
	run, err := os.MkdirTemp("", "q")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(run) })
	logs := new(safe)
	l, err := New(Config{Image: image, Dir: run, Authority: authority, Revision: "r", Log: slog.New(slog.NewTextHandler(logs, nil))})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	return l, logs, image
}

func writeImage(t *testing.T, path, kernel string, change ...func(*eif.Parts)) {
	t.Helper()
	part := func(s string) eif.Part { return eif.Part{Content: strings.NewReader(s), Size: int64(len(s))} }
	p := eif.Parts{Kernel: part(kernel), Cmdline: cmdline, Ramdisks: []eif.Part{part("base"), part("ours")}}
	for _, c := range change {
		c(&p)
	}
	f, err := os.Create(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if _, err := eif.Write(t.Context(), f, p); err != nil {
		t.Fatal(err)
	}
}

func spec() launcher.Spec {
	return launcher.Spec{Services: map[uint32]func(net.Conn){wire.PortBoot: func(c net.Conn) { io.WriteString(c, "boot message") }}}
}

func TestLaunch(t *testing.T) {
	l, logs, _ := world(t, "kvm-dies")
	launched, err := l.Launch(t.Context(), spec())
	if err != nil {
		t.Fatalf("%v\n%s", err, logs)
	}
	e := launched.(*enclave)
	c, err := e.Dial(t.Context(), wire.PortSession)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	b := make([]byte, 12)
	if _, err := io.ReadFull(c, b); err != nil || string(b) != "boot message" {
		t.Errorf("%q, %v", b, err)
	}
	m, err := l.Measure(t.Context())
	if err != nil || m["PCR8"] == "" || m["PCR0"] != e.Release().Measurements["PCR0"] || m["PCR8"] != e.Release().Measurements["PCR8"] {
		t.Errorf("%v %v %v", m, e.Release(), err)
	}
	var args []string
	eventually(t, func() bool {
		text, err := os.ReadFile(filepath.Join(e.dir, "args"))
		return err == nil && json.Unmarshal(text, &args) == nil
	})
	if argument(args, "-append") != cmdline+added || argument(args, "-accel") != "tcg" || slices.Contains(args, "-netdev") || slices.Contains(args, "-drive") {
		t.Errorf("arguments %q", args)
	}
	if b, err := os.ReadFile(filepath.Join(e.dir, "ramdisk-seen")); err != nil || string(b) != "baseours" {
		t.Errorf("ramdisk %q, %v", b, err)
	}
	if e.Err() != nil {
		t.Errorf("it runs, and its error is %v", e.Err())
	}
	pids := []int{e.Pid(), e.device.Process.Pid}
	if err := e.Close(); err != nil {
		t.Fatal(err)
	}
	select {
	case <-e.Done():
	default:
		t.Error("closed, and not done")
	}
	for _, pid := range pids {
		if _, err := os.Stat("/proc/" + strconv.Itoa(pid)); err == nil {
			t.Errorf("process %d is there still", pid)
		}
	}
	if _, err := os.Stat(e.dir); !errors.Is(err, os.ErrNotExist) {
		t.Error("its directory is there still")
	}
	if !strings.Contains(logs.String(), "runtime starting") || strings.Contains(logs.String(), "a kernel's line") {
		t.Errorf("log:\n%s", logs)
	}
}

func eventually(t *testing.T, ok func() bool) {
	t.Helper()
	for end := time.Now().Add(10 * time.Second); !ok(); time.Sleep(5 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatal("it did not come to pass")
		}
	}
}

// The module that the machine reaches has the image's registers.
func TestModule(t *testing.T) {
	l, _, _ := world(t, "kvm-dies")
	launched, err := l.Launch(t.Context(), spec())
	if err != nil {
		t.Fatal(err)
	}
	e := launched.(*enclave)
	defer e.Close()
	c, err := net.Dial("unix", e.uds()+"_"+strconv.Itoa(wire.PortDevNSM))
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	request := append([]byte{0, 0, 0, 20}, "\xa1\x6bDescribePCR\xa1\x65index\x00"...)
	request[3] = byte(len(request) - 4)
	if _, err := c.Write(request); err != nil {
		t.Fatal(err)
	}
	answer := make([]byte, 256)
	n, err := c.Read(answer)
	pcr0 := e.boot.measurements.PCR0
	if err != nil || !bytes.Contains(answer[:n], pcr0[:]) {
		t.Errorf("%x, %v", answer[:n], err)
	}
}

func TestLaunchesThatFail(t *testing.T) {
	t.Run("the machine ends", func(t *testing.T) {
		l, logs, _ := world(t, "ends, kvm-dies")
		var e *child.Error
		if _, err := l.Launch(t.Context(), launcher.Spec{}); !errors.As(err, &e) || !strings.Contains(e.Last, "entropy") {
			t.Errorf("got %v", err)
		}
		if !strings.Contains(logs.String(), "stage=entropy") {
			t.Errorf("the log does not say why:\n%s", logs)
		}
	})
	t.Run("nobody answers in time", func(t *testing.T) {
		l, _, _ := world(t, "kvm-dies")
		ctx, cancel := context.WithTimeout(t.Context(), 500*time.Millisecond)
		defer cancel()
		if _, err := l.Launch(ctx, launcher.Spec{}); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("got %v", err)
		}
		if left, err := os.ReadDir(l.cfg.Dir); err != nil || len(left) > 0 {
			t.Errorf("%v is left, %v", left, err)
		}
	})
	for name, change := range map[string]func(*eif.Parts){
		"for production": func(p *eif.Parts) { p.Cmdline = "console=ttyS0" },
		"for ARM":        func(p *eif.Parts) { p.ARM64 = true },
	} {
		t.Run(name, func(t *testing.T) {
			l, _, _ := world(t, "x", change)
			if _, err := l.Launch(t.Context(), spec()); !errors.Is(err, ErrImage) {
				t.Errorf("got %v", err)
			}
		})
	}
	t.Run("damaged", func(t *testing.T) {
		l, _, image := world(t, "kernel")
		b, err := os.ReadFile(image)
		if err != nil {
			t.Fatal(err)
		}
		b[len(b)-1] ^= 1
		if err := os.WriteFile(image, b, 0o600); err != nil {
			t.Fatal(err)
		}
		if _, err := l.Launch(t.Context(), spec()); !errors.Is(err, eif.ErrChecksum) {
			t.Errorf("got %v", err)
		}
	})
	t.Run("a release file of another image", func(t *testing.T) {
		l, _, image := world(t, "kernel")
		text, err := json.Marshal(wire.Release{Measurements: map[string]string{"PCR0": strings.Repeat("1", 96), "PCR1": strings.Repeat("1", 96), "PCR2": strings.Repeat("1", 96)}})
		if err == nil {
			err = os.WriteFile(strings.TrimSuffix(image, ".eif")+".release.json", text, 0o600)
		}
		if err != nil {
			t.Fatal(err)
		}
		if _, err := l.Launch(t.Context(), spec()); !errors.Is(err, ErrImage) {
			t.Errorf("got %v", err)
		}
	})
}

func TestOneshot(t *testing.T) {
	l, _, _ := world(t, "ends well, kvm-dies")
	s := spec()
	s.Oneshot = true
	e, err := l.Launch(t.Context(), s)
	if err != nil {
		t.Fatal(err)
	}
	<-e.Done()
	if e.Err() != nil || e.Close() != nil {
		t.Errorf("got %v", e.Err())
	}
}

// A KVM that is there and boots no guest is found out; one that does is used.
func TestAccelerator(t *testing.T) {
	if !usable(kvmDevice) {
		t.Log("this machine has no /dev/kvm: only its absence is tried")
	}
	for kernel, want := range map[string]string{"kvm-dies": "tcg", "kvm-hangs": "tcg", "kvm works": "kvm"} {
		t.Run(kernel, func(t *testing.T) {
			l, _, _ := world(t, kernel)
			file := filepath.Join(t.TempDir(), "kernel")
			if err := os.WriteFile(file, []byte(kernel), 0o600); err != nil {
				t.Fatal(err)
			}
			if !usable(kvmDevice) {
				want = "tcg"
			}
			began := time.Now()
			if got := accelerator(t.Context(), l.tools, file, t.TempDir(), l.cfg.Log); got != want {
				t.Errorf("got %s", got)
			}
			if took := time.Since(began); took > probeWithin+3*time.Second {
				t.Errorf("it took %s", took)
			}
		})
	}
}

func TestProbeProgram(t *testing.T) {
	f, err := elf.NewFile(bytes.NewReader(probeProgram()))
	if err != nil {
		t.Fatal(err)
	}
	p := f.Progs[0]
	if f.Machine != elf.EM_X86_64 || f.Entry < p.Vaddr || f.Entry >= p.Vaddr+p.Filesz || p.Filesz != uint64(len(probeProgram())) {
		t.Errorf("%+v %+v", f.FileHeader, p)
	}
	if b := probeRamdisk(); !bytes.HasPrefix(b, []byte("070701")) || len(b)%4 != 0 {
		t.Errorf("%d bytes", len(b))
	}
}

func TestMissingToolsAreNamed(t *testing.T) {
	l, _, image := world(t, "x")
	cfg := l.cfg
	t.Setenv("PATH", t.TempDir())
	if _, err := New(cfg); !errors.Is(err, ErrMissing) || strings.Count(err.Error(), "\n") > 0 {
		t.Errorf("got %v", err)
	}
	cfg.Tools = filepath.Join(filepath.Dir(image), "tools")
	if _, err := New(cfg); err != nil {
		t.Errorf("tools outside of PATH: %v", err)
	}
	cfg.Image = image + "-not"
	if _, err := New(cfg); !errors.Is(err, ErrMissing) {
		t.Errorf("no image: %v", err)
	}
}

func TestEscape(t *testing.T) {
	if got := escape("/tmp/a,b=c"); got != "/tmp/a,,b=c" {
		t.Error(got)
	}
}

// safe is a buffer for the log of several goroutines.
type safe struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (s *safe) Write(p []byte) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.b.Write(p)
}

func (s *safe) String() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.b.String()
}
