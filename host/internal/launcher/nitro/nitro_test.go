package nitro_test

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"errors"
	"io"
	"log/slog"
	"maps"
	"math/big"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/cape-functions/cape/core/wire"
	"github.com/cape-functions/cape/host/internal/launcher"
	"github.com/cape-functions/cape/host/internal/launcher/hub"
	hubkit "github.com/cape-functions/cape/host/internal/launcher/hub/testkit"
	"github.com/cape-functions/cape/host/internal/launcher/nitro"
	"github.com/cape-functions/cape/host/internal/launcher/nitro/testkit"
	"github.com/cape-functions/cape/image/eif"
	"github.com/cape-functions/cape/vsock"
)

func TestMain(m *testing.M) {
	testkit.Main()
	os.Exit(m.Run())
}

// world is a parent instance: nitro-cli, an image, and ports.
type world struct {
	t     *testing.T
	cli   *testkit.CLI
	ports *hubkit.Ports
	image map[string]string // measurements
	cfg   nitro.Config
}

// newImage writes a small image and returns its path and measurements.
func newImage(t *testing.T, cmdline, base string, signed bool) (string, map[string]string) {
	t.Helper()
	part := func(s string) eif.Part { return eif.Part{Content: strings.NewReader(s), Size: int64(len(s))} }
	path := filepath.Join(t.TempDir(), "cape.eif")
	plain, err := os.Create(path)
	if err != nil {
		t.Fatal(err)
	}
	defer plain.Close()
	m, err := eif.Write(t.Context(), plain, eif.Parts{Kernel: part("kernel"), Cmdline: cmdline, Ramdisks: []eif.Part{part(base), part("ours")}, Name: "cape"})
	if err != nil || !signed {
		if err != nil {
			t.Fatal(err)
		}
		return path, m.Map()
	}
	out, err := os.Create(path + ".signed")
	if err != nil {
		t.Fatal(err)
	}
	defer out.Close()
	info, err := plain.Stat()
	if err != nil {
		t.Fatal(err)
	}
	img, err := eif.Sign(t.Context(), out, plain, info.Size(), signer(t))
	if err != nil {
		t.Fatal(err)
	}
	return out.Name(), img.Measurements.Map()
}

func signer(t *testing.T) eif.Signer {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P384(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{SerialNumber: big.NewInt(1), NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour), SignatureAlgorithm: x509.ECDSAWithSHA384}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	return eif.Signer{Key: key, Certificate: cert}
}

// newWorld plays enclaves that serve at once.
func newWorld(t *testing.T) *world {
	t.Helper()
	image, m := newImage(t, "reboot=k", "base", true)
	w := &world{t: t, cli: testkit.New(t, m), ports: hubkit.New(), image: m}
	log := slog.New(slog.DiscardHandler)
	h := hub.New(hub.Config{Listen: w.ports.Listen, Peer: w.ports.Peer, Log: log})
	t.Cleanup(func() { _ = h.Close() })
	w.cfg = nitro.Config{
		CLI: w.cli.Path, Image: image, Release: wire.Release{Revision: "r1", Python: "3.11", Platform: "linux-x86_64"},
		CPUs: 2, Memory: 512, Name: "cape-test", Hub: h, Poll: 30 * time.Millisecond, Log: log,
		Network: func(uint32) vsock.Network { return inside{answers: true} },
	}
	return w
}

// inside plays an enclave's ports.
type inside struct{ answers bool }

func (i inside) Listen(uint32) (net.Listener, error) { return nil, net.ErrClosed }

func (i inside) Dial(ctx context.Context, port uint32) (net.Conn, error) {
	if !i.answers || port != wire.PortSession {
		return nil, net.ErrClosed
	}
	a, b := net.Pipe()
	go func() { _, _ = io.Copy(io.Discard, b); _ = b.Close() }()
	return a, nil
}

func (w *world) launcher() *nitro.Launcher {
	w.t.Helper()
	l, err := nitro.New(w.t.Context(), w.cfg)
	if err != nil {
		w.t.Fatal(err)
	}
	return l
}

func (w *world) launch(spec launcher.Spec) launcher.Enclave {
	w.t.Helper()
	e, err := w.launcher().Launch(w.t.Context(), spec)
	if err != nil {
		w.t.Fatal(err)
	}
	w.t.Cleanup(func() { _ = e.Close() })
	return e
}

func ended(t *testing.T, e launcher.Enclave) error {
	t.Helper()
	select {
	case <-e.Done():
		return e.Err()
	case <-time.After(time.Minute):
		t.Fatal("its end was not noticed")
		return nil
	}
}

func TestLaunch(t *testing.T) {
	w := newWorld(t)
	heard := make(chan struct{})
	e := w.launch(launcher.Spec{Services: map[uint32]func(net.Conn){wire.PortBoot: func(c net.Conn) { close(heard) }}})
	all := w.cli.Enclaves(t)
	if len(all) != 1 || all[0].NumberOfCPUs != 2 || all[0].MemoryMiB != 512 || !strings.HasPrefix(all[0].EnclaveName, "cape-test-") {
		t.Fatalf("%+v", all)
	}
	if r := e.Release(); r.Measurements["PCR0"] != w.image["PCR0"] || len(r.ImageSHA256) != 64 || r.Revision != "r1" {
		t.Errorf("release: %+v", r)
	}
	if slices.ContainsFunc(w.cli.Calls(t), func(c string) bool { return strings.Contains(c, "debug") }) {
		t.Error("debug mode was asked for")
	}
	c, err := w.ports.Dial(all[0].EnclaveCID, wire.PortBoot)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	<-heard
	if err := e.Close(); err != nil {
		t.Error(err)
	}
	if left := w.cli.Enclaves(t); len(left) != 0 {
		t.Errorf("after Close: %+v", left)
	}
}

func TestItsEndIsNoticed(t *testing.T) {
	w := newWorld(t)
	e := w.launch(launcher.Spec{})
	w.cli.Set(t, nil)
	if err := ended(t, e); !errors.Is(err, nitro.ErrEnded) {
		t.Errorf("%v", err)
	}
}

func TestAnEnclaveThatDiesIsSeenWhileTerminating(t *testing.T) {
	w := newWorld(t)
	e := w.launch(launcher.Spec{})
	all := w.cli.Enclaves(t)
	all[0].State = "TERMINATING"
	w.cli.Set(t, all)
	if err := ended(t, e); !errors.Is(err, nitro.ErrEnded) {
		t.Errorf("%v", err)
	}
}

func TestWatchingSurvivesADeafCLI(t *testing.T) {
	w := newWorld(t)
	e := w.launch(launcher.Spec{})
	w.cli.Fail(t, "describe-enclaves", "[ E07 ] Read from disk failure.")
	time.Sleep(300 * time.Millisecond)
	select {
	case <-e.Done():
		t.Fatal("an enclave was given up because nitro-cli failed")
	default:
	}
	w.cli.Fail(t, "describe-enclaves", "")
	w.cli.Set(t, nil)
	if err := ended(t, e); !errors.Is(err, nitro.ErrEnded) {
		t.Errorf("%v", err)
	}
}

type switched struct {
	inside
	deaf chan struct{}
}

func (s switched) Dial(ctx context.Context, port uint32) (net.Conn, error) {
	select {
	case <-s.deaf:
		return nil, net.ErrClosed
	default:
		return s.inside.Dial(ctx, port)
	}
}

func TestASilentEnclaveIsEnded(t *testing.T) {
	w := newWorld(t)
	deaf := make(chan struct{})
	w.cfg.Network = func(uint32) vsock.Network { return switched{inside{true}, deaf} }
	e := w.launch(launcher.Spec{})
	close(deaf)
	if err := ended(t, e); !errors.Is(err, nitro.ErrSilent) {
		t.Errorf("%v", err)
	}
	if left := w.cli.Enclaves(t); len(left) != 0 {
		t.Errorf("it still runs: %+v", left)
	}
}

func TestOneshot(t *testing.T) {
	w := newWorld(t)
	w.cfg.Network = func(uint32) vsock.Network { return inside{} } // it never serves
	e := w.launch(launcher.Spec{Oneshot: true})
	w.cli.Set(t, nil)
	if err := ended(t, e); err != nil {
		t.Errorf("an enclave that did its one thing: %v", err)
	}
}

func TestWhatMustNotRun(t *testing.T) {
	for _, c := range []struct {
		name   string
		change func(w *world)
		want   error
	}{
		{"another image", func(w *world) { w.cli.Measure(w.t, changed(w.image, "PCR0")) }, nitro.ErrImage},
		{"another signer", func(w *world) { w.cli.Measure(w.t, changed(w.image, "PCR8")) }, nitro.ErrImage},
		{"debug mode", func(w *world) { w.cli.Debug(w.t) }, nitro.ErrDebug},
		{"gone at once", func(w *world) { w.cli.Say(w.t, "describe-enclaves", "[]") }, nitro.ErrEnded},
	} {
		t.Run(c.name, func(t *testing.T) {
			w := newWorld(t)
			c.change(w)
			_, err := w.launcher().Launch(t.Context(), launcher.Spec{})
			if !errors.Is(err, c.want) {
				t.Errorf("%v, want %v", err, c.want)
			}
			if left := w.cli.Enclaves(t); len(left) != 0 {
				t.Errorf("it was left running: %+v", left)
			}
		})
	}
}

func TestErrors(t *testing.T) {
	for _, c := range []struct{ name, text, code string }{
		{"too little memory", "Start allocating memory...\n[ E27 ] Insufficient memory available. User provided `memory` is 512 MB", "E27"},
		{"too few CPUs", "[ E22 ] Insufficient CPUs available in the pool.", "E22"},
		{"no heartbeat", "[ E36 ] Enclave boot failure.\n\nFailed connections: 1\n[ E39 ] Enclave process connection failure.", "E36"},
		{"unknown code", "[ E99 ] Something new.", "E99"},
		{"no code", "Could not open /dev/nitro_enclaves", ""},
		{"nothing", "\x1b[31m", ""},
	} {
		t.Run(c.name, func(t *testing.T) {
			w := newWorld(t)
			w.cli.Fail(t, "run-enclave", c.text)
			_, err := w.launcher().Launch(t.Context(), launcher.Spec{})
			var e *nitro.Error
			if !errors.As(err, &e) || e.Code != c.code || e.Command != "run-enclave" || e.Text == "" || e.Hint == "" {
				t.Fatalf("%#v", err)
			}
			if strings.ContainsAny(err.Error(), "\n\x1b") {
				t.Errorf("not one printable line: %q", err)
			}
		})
	}
	t.Run("not installed", func(t *testing.T) {
		w := newWorld(t)
		w.cfg.CLI = "no-such-nitro-cli"
		_, err := w.launcher().Launch(t.Context(), launcher.Spec{})
		var e *nitro.Error
		if !errors.As(err, &e) || e.Hint == "" {
			t.Errorf("%v", err)
		}
	})
	t.Run("not JSON", func(t *testing.T) {
		w := newWorld(t)
		w.cli.Say(t, "run-enclave", "Started enclave")
		_, err := w.launcher().Launch(t.Context(), launcher.Spec{})
		var e *nitro.Error
		if !errors.As(err, &e) {
			t.Errorf("%v", err)
		}
		if left := w.cli.Enclaves(t); len(left) != 0 {
			t.Errorf("it was left running: %+v", left)
		}
	})
}

func TestAnInterruptedStartLeavesNothing(t *testing.T) {
	w := newWorld(t)
	w.cli.Hang(t, "run-enclave", time.Minute)
	ctx, cancel := context.WithTimeout(t.Context(), time.Second)
	defer cancel()
	if _, err := w.launcher().Launch(ctx, launcher.Spec{}); err == nil {
		t.Fatal("it came up")
	}
	if left := w.cli.Enclaves(t); len(left) != 0 {
		t.Errorf("it was left running: %+v", left)
	}
}

func TestSweepTouchesOnlyItsOwn(t *testing.T) {
	w := newWorld(t)
	w.cli.Set(t, []testkit.Enclave{{EnclaveName: "cape-test-1", EnclaveID: "a", State: "RUNNING"}, {EnclaveName: "cape-tester-1", EnclaveID: "b", State: "RUNNING"}})
	n, err := w.launcher().Sweep(t.Context())
	if n != 1 || err != nil {
		t.Errorf("%d, %v", n, err)
	}
	if left := w.cli.Enclaves(t); len(left) != 1 || left[0].EnclaveID != "b" {
		t.Errorf("%+v", left)
	}
}

func TestMeasure(t *testing.T) {
	w := newWorld(t)
	m, err := w.launcher().Measure(t.Context())
	if err != nil || m["PCR8"] == "" || m["PCR8"] != w.image["PCR8"] {
		t.Errorf("%v, %v", m, err)
	}
}

func changed(m map[string]string, name string) map[string]string {
	m = maps.Clone(m)
	m[name] = strings.Repeat("f", 96)
	return m
}

func TestImages(t *testing.T) {
	for name, change := range map[string]func(*world){
		"unsigned":                   func(w *world) { w.cfg.Image, _ = newImage(t, "reboot=k", "base", false) },
		"for development":            func(w *world) { w.cfg.Image, _ = newImage(t, "reboot=k "+eif.DevelopmentMark, "base", false) },
		"another release's hash":     func(w *world) { w.cfg.Release.ImageSHA256 = strings.Repeat("0", 64) },
		"another release's measures": func(w *world) { w.cfg.Release.Measurements = changed(w.image, "PCR2") },
		"cut short": func(w *world) {
			if err := os.Truncate(w.cfg.Image, 600); err != nil {
				t.Fatal(err)
			}
		},
	} {
		w := newWorld(t)
		change(w)
		if _, err := nitro.New(t.Context(), w.cfg); !errors.Is(err, nitro.ErrImage) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestConfig(t *testing.T) {
	for name, change := range map[string]func(*nitro.Config){
		"no CPU":         func(c *nitro.Config) { c.CPUs = 0 },
		"little memory":  func(c *nitro.Config) { c.Memory = 32 },
		"no image":       func(c *nitro.Config) { c.Image += ".none" },
		"relative image": func(c *nitro.Config) { c.Image = "cape.eif" },
		"name":           func(c *nitro.Config) { c.Name = "a b" },
		"less memory than four times the image": func(c *nitro.Config) {
			c.Image, _ = newImage(t, "reboot=k", strings.Repeat("x", 17<<20), true)
			c.Memory = 64
		},
	} {
		w := newWorld(t)
		change(&w.cfg)
		if _, err := nitro.New(t.Context(), w.cfg); !errors.Is(err, nitro.ErrConfig) {
			t.Errorf("%s: %v", name, err)
		}
	}
}
