package machine

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/cape-functions/cape/core/wire"
	"github.com/cape-functions/cape/vsock"
)

var (
	// ErrEntropy: the kernel's randomness does not come from where it must.
	ErrEntropy = errors.New("no entropy from the expected source")
	// ErrMemory: the machine's memory is not enough, or kept from the runtime.
	ErrMemory = errors.New("the machine's memory is not as it must be")
	// ErrHeartbeat: the host did not answer the sign of life.
	ErrHeartbeat = errors.New("heartbeat was not answered")
)

const (
	// minMemory is what a runtime with one small function needs.
	minMemory = 256 << 20
	// files is how many descriptors the runtime may have: some for each session and jail.
	files = 65536
	// lifeSign is the byte that says on Nitro that an enclave is up.
	lifeSign = 0xB7
	// heartbeatWithin and entropyWithin bound waits at start; rng drivers load before PID 1 runs.
	heartbeatWithin = 10 * time.Second
	entropyWithin   = 5 * time.Second
)

// bounds are the kernel's own for all processes, threads and open files together. It derives them from the machine's memory, and
// functions could reach them: each has bounds of its own, but there are as many as sessions. Then no process gets a file or a
// thread, and the runtime, which does without neither, ends. What is left to bound all functions is memory: what the kernel
// keeps for threads and files of a jail is counted there.
var bounds = map[string]string{"kernel/pid_max": "4194304", "kernel/threads-max": "2097152", "fs/file-max": "9223372036854775807"}

// raise sets them, below dir.
func raise(dir string) error {
	for name, most := range bounds {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(most), 0o600); err != nil {
			return err
		}
	}
	return nil
}

// checkEntropy wants the kernel to be fed by source (a driver's name or, ending in a dot, the
// beginning of one), and its generator to be seeded.
func checkEntropy(file, source string) error {
	data, err := os.ReadFile(file)
	if err != nil {
		return fmt.Errorf("%w: %w", ErrEntropy, err)
	}
	name := strings.TrimSpace(string(data))
	if name != source && (!strings.HasSuffix(source, ".") || !strings.HasPrefix(name, source)) {
		return fmt.Errorf("%w: the kernel takes it from %q", ErrEntropy, name)
	}
	for end := time.Now().Add(entropyWithin); ; time.Sleep(10 * time.Millisecond) {
		_, err := unix.Getrandom(make([]byte, 1), unix.GRND_NONBLOCK)
		if err == nil || time.Now().After(end) {
			return errors.Join(err)
		}
	}
}

// checkMemory reads the text of /proc/meminfo. Memory reserved as huge pages would be
// missing where the runtime needs it, and nothing in the image reserves any.
func checkMemory(text string) error {
	values := map[string]int64{}
	for line := range strings.Lines(text) {
		if f := strings.Fields(line); len(f) >= 2 {
			n, err := strconv.ParseInt(f[1], 10, 64)
			if err != nil {
				return fmt.Errorf("%w: %w", ErrMemory, err)
			}
			values[strings.TrimSuffix(f[0], ":")] = n
		}
	}
	if free := values["MemAvailable"] << 10; free < minMemory {
		return fmt.Errorf("%w: %d MiB are free, %d are needed", ErrMemory, free>>20, minMemory>>20)
	}
	if n := values["HugePages_Total"]; n != 0 {
		return fmt.Errorf("%w: %d huge pages are reserved", ErrMemory, n)
	}
	return nil
}

// heartbeat tells the parent of a Nitro enclave that it is up.
func heartbeat(n vsock.Network, within time.Duration) error {
	ctx, cancel := context.WithTimeout(context.Background(), within)
	defer cancel()
	conn, err := vsock.Await(ctx, n, wire.PortHeartbeat)
	if err != nil {
		return fmt.Errorf("%w: %w", ErrHeartbeat, err)
	}
	defer conn.Close()
	answer := []byte{lifeSign}
	if err := conn.SetDeadline(time.Now().Add(within)); err != nil {
		return fmt.Errorf("%w: %w", ErrHeartbeat, err)
	}
	if _, err := conn.Write(answer); err != nil {
		return fmt.Errorf("%w: %w", ErrHeartbeat, err)
	}
	answer[0] = 0
	if _, err := conn.Read(answer); err != nil || answer[0] != lifeSign {
		return fmt.Errorf("%w: %w", ErrHeartbeat, errors.Join(err))
	}
	return nil
}
