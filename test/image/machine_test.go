//go:build image

package image

import (
	"bufio"
	"bytes"
	"context"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/cape-functions/cape/core/wire"
)

// heartbeat is the byte by which an enclave tells its parent that it is up.
const heartbeat = 0xB7

// machine is QEMU's nitro-enclave machine with an image in it, seen from its parent at CID 3.
type machine struct {
	t       *testing.T
	dir     string
	console *output
	beat    chan byte
	ended   chan struct{} // closed when QEMU ended
}

// output collects what a process prints.
type output struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (o *output) Write(p []byte) (int, error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.b.Write(p)
}

func (o *output) String() string {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.b.String()
}

// tool finds a program of tools/vm-tools.sh.
func tool(t *testing.T, name string) string {
	t.Helper()
	dir := os.Getenv("CAPE_TOOLS")
	if dir == "" {
		cache, err := os.UserCacheDir()
		if err != nil {
			t.Fatal(err)
		}
		dir = filepath.Join(cache, "cape-tools")
	}
	own := filepath.Join(dir, "bin", name)
	if _, err := os.Stat(own); err != nil {
		t.Fatalf("%s is missing: make vm-tools VMFLAGS=--nitro", own)
	}
	return own
}

// boot starts an image. Services are the parent's ports.
func boot(t *testing.T, image string, services map[uint32]func(net.Conn)) *machine {
	t.Helper()
	dir, err := os.MkdirTemp("", "cape-vm-") // sockets have short names
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	m := &machine{t: t, dir: dir, console: &output{}, beat: make(chan byte, 1), ended: make(chan struct{})}
	m.listen(wire.PortHeartbeat, m.answerBeat)
	for port, serve := range services {
		m.listen(port, serve)
	}
	device := filepath.Join(dir, "device")
	m.start(tool(t, "vhost-vsock-cid3"), nil, "--vm", "guest-cid=16,socket="+device+",uds-path="+m.socket())
	m.await(device)
	m.start(tool(t, "qemu-system-x86_64"), m.ended, "-L", "/usr/share/qemu", "-M", "nitro-enclave,vsock=c0,id=i-0-enc0", "-accel", "tcg", "-cpu", "max", "-smp", "2",
		"-m", "2G", "-nographic", "--no-reboot", "-chardev", "socket,id=c0,path="+device, "-kernel", image)
	return m
}

func (m *machine) socket() string { return filepath.Join(m.dir, "v") }

// listen serves a port of the parent: a guest's connection to it arrives at a socket of this name.
func (m *machine) listen(port uint32, serve func(net.Conn)) {
	m.t.Helper()
	l, err := (&net.ListenConfig{}).Listen(m.t.Context(), "unix", fmt.Sprintf("%s_%d", m.socket(), port))
	if err != nil {
		m.t.Fatal(err)
	}
	m.accept(l, serve)
}

// accept serves connections until the test ends.
func (m *machine) accept(l net.Listener, serve func(net.Conn)) {
	m.t.Cleanup(func() { l.Close() })
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			go serve(c)
		}
	}()
}

func (m *machine) answerBeat(c net.Conn) {
	defer c.Close()
	b := make([]byte, 1)
	if _, err := io.ReadFull(c, b); err != nil {
		return
	}
	_, _ = c.Write(b)
	m.beat <- b[0]
	_, _ = io.Copy(io.Discard, c)
}

// start runs a program until the test ends; what it prints goes to the console.
func (m *machine) start(program string, ended chan struct{}, args ...string) {
	m.t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	cmd := exec.CommandContext(ctx, program, args...)
	cmd.Stdout, cmd.Stderr = m.console, m.console
	if err := cmd.Start(); err != nil {
		cancel()
		m.t.Fatal(err)
	}
	done := make(chan struct{})
	go func() {
		_ = cmd.Wait() // it is killed at the end
		close(done)
		if ended != nil {
			close(ended)
		}
	}()
	m.t.Cleanup(func() {
		cancel()
		<-done
	})
}

func (m *machine) await(path string) {
	m.t.Helper()
	for end := time.Now().Add(20 * time.Second); ; time.Sleep(10 * time.Millisecond) {
		if _, err := os.Stat(path); err == nil {
			return
		}
		if time.Now().After(end) {
			m.t.Fatalf("%s did not appear\n%s", path, m.console)
		}
	}
}

// dial connects to a port of the enclave, again and again until it listens.
func (m *machine) dial(ctx context.Context, port uint32) (net.Conn, error) {
	for {
		c, err := m.dialOnce(ctx, port)
		if err == nil {
			return c, nil
		}
		select {
		case <-m.ended:
			return nil, fmt.Errorf("the machine ended: %w", err)
		case <-ctx.Done():
			return nil, err
		case <-time.After(50 * time.Millisecond):
		}
	}
}

func (m *machine) dialOnce(ctx context.Context, port uint32) (net.Conn, error) {
	c, err := (&net.Dialer{}).DialContext(ctx, "unix", m.socket())
	if err != nil {
		return nil, err
	}
	stop := context.AfterFunc(ctx, func() { c.Close() })
	defer stop()
	_, err = fmt.Fprintf(c, "CONNECT %d\n", port)
	r := bufio.NewReader(c)
	var answer string
	if err == nil {
		answer, err = r.ReadString('\n')
	}
	if err == nil && !strings.HasPrefix(answer, "OK ") {
		err = fmt.Errorf("vsock: %q", answer)
	}
	if err != nil {
		c.Close()
		return nil, err
	}
	return &buffered{Conn: c, r: r}, nil
}

// front is an address of this machine whose connections go to a port of the enclave, as a gateway would pass them.
func (m *machine) front(port uint32) string {
	m.t.Helper()
	l, err := (&net.ListenConfig{}).Listen(m.t.Context(), "tcp", "127.0.0.1:0")
	if err != nil {
		m.t.Fatal(err)
	}
	m.accept(l, func(c net.Conn) { m.pass(c, port) })
	return l.Addr().String()
}

func (m *machine) pass(c net.Conn, port uint32) {
	defer c.Close()
	e, err := m.dialOnce(m.t.Context(), port)
	if err != nil {
		return
	}
	defer e.Close()
	go func() {
		_, _ = io.Copy(e, c)
		e.Close()
	}()
	_, _ = io.Copy(c, e)
}

// buffered reads first what came with the answer to CONNECT.
type buffered struct {
	net.Conn
	r *bufio.Reader
}

func (b *buffered) Read(p []byte) (int, error) { return b.r.Read(p) }
