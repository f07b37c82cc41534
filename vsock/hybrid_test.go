package vsock_test

import (
	"bufio"
	"context"
	"errors"
	"io"
	"net"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/cape-functions/cape/vsock"
)

// device plays the program behind the socket: what it does with a connection is answer's.
func device(t *testing.T, answer func(line string, c net.Conn)) vsock.Network {
	t.Helper()
	path := filepath.Join(t.TempDir(), "v")
	l, err := net.Listen("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			go func() {
				defer c.Close()
				line, err := bufio.NewReader(c).ReadString('\n')
				if err == nil {
					answer(line, c)
				}
			}()
		}
	}()
	return vsock.Hybrid(path)
}

func TestHybridDial(t *testing.T) {
	for name, tt := range map[string]struct {
		reply string
		ok    bool
	}{
		"connected": {"OK 1073741824\nhello", true}, "refused": {"", false}, "another word": {"NO 1\n", false},
		"no number": {"OK x\n", false}, "no line": {"OK 11111111111111111111111111111111111111111111", false},
	} {
		t.Run(name, func(t *testing.T) {
			asked := make(chan string, 1)
			n := device(t, func(line string, c net.Conn) {
				asked <- line
				io.WriteString(c, tt.reply)
			})
			c, err := n.Dial(t.Context(), 5000)
			if line := <-asked; line != "CONNECT 5000\n" {
				t.Errorf("it was asked %q", line)
			}
			if !tt.ok {
				if !errors.Is(err, vsock.ErrRefused) {
					t.Errorf("got %v", err)
				}
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			defer c.Close()
			if b, err := io.ReadAll(c); err != nil || string(b) != "hello" {
				t.Errorf("%q, %v", b, err)
			}
		})
	}
}

func TestHybridDialEndsWithItsContext(t *testing.T) {
	n := device(t, func(_ string, c net.Conn) { io.Copy(io.Discard, c) })
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	if c, err := n.Dial(ctx, 5000); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("%v, %v", c, err)
	}
	if _, err := vsock.Hybrid(filepath.Join(t.TempDir(), "none")).Dial(t.Context(), 1); err == nil {
		t.Error("nobody was there")
	}
}

func TestHybridListen(t *testing.T) {
	path := filepath.Join(t.TempDir(), "v")
	for range 2 { // a socket that was left behind is in nobody's way
		l, err := vsock.Hybrid(path).Listen(5010)
		if err != nil {
			t.Fatal(err)
		}
		l.(*net.UnixListener).SetUnlinkOnClose(false)
		c, err := net.Dial("unix", path+"_5010")
		if err != nil {
			t.Fatal(err)
		}
		c.Close()
		l.Close()
	}
}

// Await goes on until somebody listens, and no longer than its context.
func TestAwait(t *testing.T) {
	path := filepath.Join(t.TempDir(), "v")
	n := vsock.Unix(filepath.Dir(path), true)
	ctx, cancel := context.WithTimeout(t.Context(), 120*time.Millisecond)
	defer cancel()
	if _, err := vsock.Await(ctx, n, 1); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("nobody there: %v", err)
	}
	if err := os.Mkdir(filepath.Join(filepath.Dir(path), "host"), 0o700); err != nil {
		t.Fatal(err)
	}
	go func() {
		time.Sleep(100 * time.Millisecond)
		l, err := vsock.Unix(filepath.Dir(path), false).Listen(1)
		if err == nil {
			t.Cleanup(func() { l.Close() })
		}
	}()
	ctx, cancel = context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	c, err := vsock.Await(ctx, n, 1)
	if err != nil {
		t.Fatal(err)
	}
	c.Close()
}
