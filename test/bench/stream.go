package main

import (
	"context"
	"crypto/rand"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	mathrand "math/rand/v2"
	"os"
	"os/exec"
	"strconv"
	"syscall"
	"time"

	"github.com/cape-functions/cape/client"
)

// maxStream is the largest input that there is.
const maxStream = 1 << 30

// stream: a large input through echo and back, and what the processes on its
// way hold meanwhile: neither host nor client may grow with it.
func (b *bench) stream() error {
	p, err := b.platform()
	if err != nil {
		return err
	}
	defer p.stop()
	d, err := p.deploy(b, "echo", map[string]string{"app.py": echoApp})
	if err != nil {
		return err
	}
	size := min(2*b.size, maxStream)
	small, _, err := b.echoed(p, d.ID, 1<<20)
	if err != nil {
		return err
	}
	before, _, err := processMemory(p.cmd.Process.Pid)
	if err != nil {
		return err
	}
	large, took, err := b.echoed(p, d.ID, size)
	if err != nil {
		return err
	}
	_, peak, err := processMemory(p.cmd.Process.Pid)
	if err != nil {
		return err
	}
	rate := float64(2*size) / took.Seconds() / 1e6
	b.add(fmt.Sprintf("echo of %d MiB, both ways", size>>20), "MB/s", "", "protocol v2, client included, receipt verified", rate, 0)
	b.add("  host memory above idle", "MiB", "flat", "", float64((peak-before)>>20), 0)
	b.add("  client memory above that for 1 MiB", "MiB", "flat", "", float64((large-small)>>20), 0)
	return nil
}

// echoed sends size bytes through a function from a process of its own, and
// returns the memory that the process had at most.
func (b *bench) echoed(p *platform, id string, size int64) (peak int64, took time.Duration, err error) {
	self, err := os.Executable()
	if err != nil {
		return 0, 0, err
	}
	cmd := exec.CommandContext(b.ctx, self, "echo-stream", p.dir, p.url, id, strconv.FormatInt(size, 10))
	cmd.Stderr = os.Stderr
	start := time.Now()
	if err := cmd.Run(); err != nil {
		return 0, 0, fmt.Errorf("echo of %d bytes: %w", size, err)
	}
	u, ok := cmd.ProcessState.SysUsage().(*syscall.Rusage)
	if !ok {
		return 0, 0, errors.New("this system does not tell a process's memory")
	}
	return u.Maxrss << 10, time.Since(start), nil
}

// echoStream is what the stream row runs: data directory, URL, function, size.
func echoStream(args []string) error {
	if len(args) != 4 {
		return errors.New("echo-stream takes four arguments")
	}
	size, err := strconv.ParseInt(args[3], 10, 64)
	if err != nil {
		return err
	}
	c, err := connectTo(args[0], args[1])
	if err != nil {
		return err
	}
	defer c.Close()
	var seed [32]byte
	rand.Read(seed[:])
	sent, got := sha256.New(), sha256.New()
	input := io.TeeReader(io.LimitReader(mathrand.NewChaCha8(seed), size), sent)
	if _, err := c.Stream(context.Background(), client.Function{Name: args[2]}, input, got); err != nil {
		return err
	}
	if [32]byte(sent.Sum(nil)) != [32]byte(got.Sum(nil)) {
		return errors.New("echo answered something else")
	}
	return nil
}
