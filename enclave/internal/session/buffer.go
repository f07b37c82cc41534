package session

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"sync"

	"golang.org/x/sys/unix"
)

const (
	// smallBuffer is the size of a buffer on the heap; what does not fit gets memory of its
	// own that grows without being copied and goes back to the system at once.
	smallBuffer = 64 << 10
	// AllMessages is what the messages of all sessions may take together, where there is as much: the largest input
	// of version 1, which is there twice while it is opened, and a result as large fit into half of it.
	AllMessages = 4<<30 + 64<<20
	// budgetStep is how a large buffer's share of the budget grows.
	budgetStep = 16 << 20
)

// errLimit: a message is larger than it may be.
var errLimit = errors.New("message is larger than allowed")

// budget is the memory that all messages share.
type budget struct {
	mu    sync.Mutex
	free  int64
	small sync.Pool // of *[smallBuffer]byte
}

// memory hands out buffers of one tenant, who gets no more than is left to everybody else. Who
// gets no more is refused at once: waiting could wait for each other.
type memory struct {
	*budget
	held int64 // guarded by budget.mu
}

func (m *memory) take(n int64) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.held+n > m.free-n { // what is left once it is taken
		return errMemory
	}
	m.held += n
	m.free -= n
	return nil
}

// reserve is take for as long as release was not called.
func (m *memory) reserve(n int64) (release func(), err error) {
	return func() { m.give(n) }, m.take(n)
}

func (m *memory) give(n int64) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.held -= n
	m.free += n
}

// buffer holds one message of at most max bytes. It implements io.Writer.
type buffer struct {
	mem    *memory
	max    int64
	heap   *[smallBuffer]byte
	region []byte // mapped, max+1 bytes of address space
	taken  int64
	data   []byte // what was written, in heap or region
}

// piece returns smallBuffer bytes of the pool.
func (m *memory) piece() *[smallBuffer]byte {
	p, ok := m.small.Get().(*[smallBuffer]byte)
	if !ok {
		p = new([smallBuffer]byte)
	}
	return p
}

func (m *memory) buffer(max int64) *buffer {
	return &buffer{mem: m, max: max}
}

// bytes is what the buffer holds, until release.
func (b *buffer) bytes() []byte { return b.data }

// room returns free space behind the data, at least one byte of it; one byte beyond max, so
// that too much can be told from exactly enough.
func (b *buffer) room() ([]byte, error) {
	if len(b.data) == cap(b.data) {
		if err := b.grow(); err != nil {
			return nil, err
		}
	}
	return b.data[len(b.data):cap(b.data)], nil
}

func (b *buffer) grow() error {
	have := int64(cap(b.data))
	if have > b.max {
		return errLimit
	}
	next := int64(smallBuffer)
	if have > 0 {
		next = min(b.max+1, have+budgetStep)
	}
	if err := b.mem.take(next - b.taken); err != nil {
		return err
	}
	b.taken = next
	if have == 0 {
		b.heap = b.mem.piece()
		b.data = b.heap[:0]
		return nil
	}
	if b.region == nil {
		region, err := unix.Mmap(-1, 0, int(b.max+1), unix.PROT_READ|unix.PROT_WRITE, unix.MAP_ANON|unix.MAP_PRIVATE|unix.MAP_NORESERVE)
		if err != nil {
			return fmt.Errorf("%w: %w", errMemory, err)
		}
		_ = unix.Madvise(region, unix.MADV_DONTDUMP) // core files are forbidden already
		b.region = region
		copy(region, b.data)
		clear(b.heap[:])
		b.mem.small.Put(b.heap)
		b.heap = nil
	}
	b.data = b.region[:len(b.data):next]
	return nil
}

// fill reads r to its end. progress is called after each piece.
func (b *buffer) fill(r io.Reader, progress func()) error {
	for {
		room, err := b.room()
		if err != nil {
			return err
		}
		n, err := r.Read(room)
		b.data = b.data[:len(b.data)+n]
		if int64(len(b.data)) > b.max {
			return errLimit
		}
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return err
		}
		progress()
	}
}

// Write implements io.Writer.
func (b *buffer) Write(p []byte) (int, error) {
	before := len(b.data)
	err := b.fill(bytes.NewReader(p), func() {})
	return len(b.data) - before, err
}

// replace puts data, which is no longer than what the buffer holds, in the place of it, and gives back what it does not need.
func (b *buffer) replace(data []byte) {
	clear(b.data[copy(b.data, data):])
	b.data = b.data[:len(data):len(data)]
	if b.region != nil {
		b.mem.give(b.taken - int64(len(data)))
		b.taken = int64(len(data))
	}
}

// release forgets the content and gives the memory back. The buffer and everything that
// points into it must not be used any more. nil holds nothing.
func (b *buffer) release() {
	if b == nil {
		return
	}
	if b.heap != nil {
		clear(b.heap[:len(b.data)])
		b.mem.small.Put(b.heap)
	}
	if b.region != nil {
		_ = unix.Munmap(b.region) // fails only for addresses that are not a mapping
	}
	b.mem.give(b.taken)
	*b = buffer{}
}
