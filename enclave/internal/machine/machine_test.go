package machine

import (
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/cape-functions/cape/core/wire"
	"github.com/cape-functions/cape/vsock"
)

// TestMain plays the runtime of TestSupervise and its descendants.
func TestMain(m *testing.M) {
	if len(os.Args) == 3 && os.Args[1] == "play" {
		os.Exit(play(os.Args[2]))
	}
	os.Exit(m.Run())
}

func play(part string) int {
	switch part {
	case "ends":
		return 0
	case "fails":
		return 3
	case "panics":
		panic("secret")
	case "environment":
		return len(os.Environ())
	case "leaves":
		// A child of its own whose child outlives it: PID 1 inherits that one.
		out, err := exec.Command(self, "play", "forks").Output()
		if err != nil {
			return 10
		}
		orphan := strings.TrimSpace(string(out))
		for range 200 {
			time.Sleep(10 * time.Millisecond)
			if _, err := os.Stat("/proc/" + orphan); err != nil {
				return 0
			}
		}
		return 11 // it is there still, as a zombie
	case "forks":
		cmd := exec.Command(self, "play", "lingers")
		if cmd.Start() != nil {
			return 12
		}
		fmt.Println(cmd.Process.Pid)
	case "lingers":
		time.Sleep(100 * time.Millisecond)
	}
	return 0
}

func TestSupervise(t *testing.T) {
	if err := unix.Prctl(unix.PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0); err != nil {
		t.Fatal(err)
	}
	t.Setenv("LD_PRELOAD", "/x")
	for part, ok := range map[string]bool{"ends": true, "environment": true, "leaves": true, "fails": false, "panics": false} {
		t.Run(part, func(t *testing.T) {
			if err := supervise([]string{"runtime", "play", part}); (err == nil) != ok {
				t.Errorf("got %v", err)
			}
		})
	}
}

func TestEntropy(t *testing.T) {
	file := filepath.Join(t.TempDir(), "rng_current")
	for _, tt := range []struct {
		current, source string
		ok              bool
	}{
		{"nsm-hwrng\n", NSMEntropy, true},
		{"virtio_rng.0\n", VirtioEntropy, true},
		{"virtio_rng.0\n", NSMEntropy, false},
		{"nsm-hwrng\n", VirtioEntropy, false},
		{"nsm-hwrng2\n", NSMEntropy, false},
		{"tpm-rng-0\n", NSMEntropy, false},
		{"none\n", NSMEntropy, false},
		{"", NSMEntropy, false},
	} {
		if err := os.WriteFile(file, []byte(tt.current), 0o600); err != nil {
			t.Fatal(err)
		}
		if err := checkEntropy(file, tt.source); tt.ok != (err == nil) || err != nil && !errors.Is(err, ErrEntropy) {
			t.Errorf("%q for %q: %v", tt.current, tt.source, err)
		}
	}
	if err := checkEntropy(file+"-missing", NSMEntropy); !errors.Is(err, ErrEntropy) {
		t.Errorf("no driver: %v", err)
	}
}

func TestMemory(t *testing.T) {
	for text, ok := range map[string]bool{
		"MemTotal: 2000000 kB\nMemAvailable: 1000000 kB\nHugePages_Total: 0\n": true,
		"MemAvailable: 262144 kB\n":                      true,
		"MemAvailable: 262143 kB\n":                      false,
		"MemAvailable: 1000000 kB\nHugePages_Total: 1\n": false,
		"MemAvailable: much kB\n":                        false,
		"":                                               false,
	} {
		if err := checkMemory(text); (err == nil) != ok || err != nil && !errors.Is(err, ErrMemory) {
			t.Errorf("%q: %v", text, err)
		}
	}
}

func TestHeartbeat(t *testing.T) {
	for name, tt := range map[string]struct {
		answer func(c net.Conn, b byte)
		ok     bool
	}{
		"answered":   {func(c net.Conn, b byte) { c.Write([]byte{b}) }, true},
		"other byte": {func(c net.Conn, b byte) { c.Write([]byte{b + 1}) }, false},
		"closed":     {func(net.Conn, byte) {}, false},
	} {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			if err := errors.Join(os.Mkdir(filepath.Join(dir, "host"), 0o700), os.Mkdir(filepath.Join(dir, "enclave"), 0o700)); err != nil {
				t.Fatal(err)
			}
			l, err := vsock.Unix(dir, false).Listen(wire.PortHeartbeat)
			if err != nil {
				t.Fatal(err)
			}
			defer l.Close()
			got := make(chan byte, 1)
			go func() {
				c, err := l.Accept()
				if err != nil {
					return
				}
				defer c.Close()
				b := make([]byte, 1)
				if _, err := c.Read(b); err == nil {
					got <- b[0]
					tt.answer(c, b[0])
				}
			}()
			if err := heartbeat(vsock.Unix(dir, true), time.Second); (err == nil) != tt.ok || err != nil && !errors.Is(err, ErrHeartbeat) {
				t.Errorf("got %v", err)
			}
			if b := <-got; b != 0xB7 {
				t.Errorf("sent %s", strconv.FormatInt(int64(b), 16))
			}
		})
	}
	if err := heartbeat(vsock.Unix(t.TempDir(), true), 100*time.Millisecond); !errors.Is(err, ErrHeartbeat) {
		t.Errorf("nobody there: %v", err)
	}
}

// TestDeviceClock: where KVM has a clock for its guests, it is read; nothing else is taken for one.
func TestDeviceClock(t *testing.T) {
	if _, err := deviceClock(filepath.Join(t.TempDir(), "ptp0")); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("no device: %v", err)
	}
	if _, err := deviceClock(os.DevNull); !errors.Is(err, unix.EINVAL) {
		t.Errorf("another device: %v", err)
	}
	got, err := HypervisorClock()
	if errors.Is(err, os.ErrNotExist) || errors.Is(err, os.ErrPermission) {
		return
	}
	if err != nil || time.Since(got).Abs() > time.Hour {
		t.Errorf("%s, %v", got, err)
	}
}

// TestBoundsAreOutOfReach: all functions together come to none of the kernel's own bounds.
func TestBoundsAreOutOfReach(t *testing.T) {
	dir := t.TempDir()
	if raise(dir) == nil {
		t.Error("no error without a place to set them")
	}
	if err := errors.Join(os.Mkdir(filepath.Join(dir, "kernel"), 0o700), os.Mkdir(filepath.Join(dir, "fs"), 0o700)); err != nil {
		t.Fatal(err)
	}
	if err := raise(dir); err != nil {
		t.Fatal(err)
	}
	const most = wire.MaxSessions * wire.MaxHandlerProcs
	for name, need := range map[string]int{"kernel/pid_max": 2 * most, "kernel/threads-max": 2 * most, "fs/file-max": most * wire.MaxHandlerFiles} {
		text, err := os.ReadFile(filepath.Join(dir, name))
		if n, err2 := strconv.Atoi(string(text)); errors.Join(err, err2) != nil || n < need {
			t.Errorf("%s: %q, less than %d", name, text, need)
		}
	}
}
