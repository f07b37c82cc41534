package handler

import (
	"io"
	"os"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

const (
	// maxPrinted bounds what is kept of each stream of a connection.
	maxPrinted = 4 << 20
	printPiece = 16 << 10
	printQueue = 16 // pieces
	// settleTime bounds how long a result waits for what was printed before it.
	settleTime = 100 * time.Millisecond
	// finishTime bounds how long Close waits for the writer.
	finishTime = time.Second
)

// printer carries what a function prints. The pipe is always read, so that a
// function is never held up by whoever looks on.
type printer struct {
	r    *os.File
	w    io.Writer
	raw  syscall.RawConn
	done chan struct{}

	mu      sync.Mutex
	pending int // bytes read from the pipe, and neither written nor dropped
}

func newPrinter(r *os.File, w io.Writer) *printer {
	return &printer{r: r, w: w, done: make(chan struct{})}
}

func (p *printer) start() (err error) {
	if p.raw, err = p.r.SyscallConn(); err != nil {
		return err
	}
	queue := make(chan []byte, printQueue)
	go p.read(queue)
	go p.write(queue)
	return nil
}

func (p *printer) read(queue chan<- []byte) {
	defer close(queue)
	kept := 0
	for buf := make([]byte, printPiece); ; {
		n := 0
		err := p.raw.Read(func(fd uintptr) bool {
			p.mu.Lock()
			defer p.mu.Unlock()
			var err error
			n, err = unix.Read(int(fd), buf)
			if n > 0 {
				p.pending += n
			}
			return err != unix.EAGAIN && err != unix.EINTR
		})
		if err != nil || n <= 0 {
			return
		}
		keep := min(n, maxPrinted-kept)
		p.account(n - keep)
		if keep == 0 {
			continue
		}
		select {
		case queue <- append([]byte(nil), buf[:keep]...):
			kept += keep
		default:
			p.account(keep)
		}
	}
}

func (p *printer) write(queue <-chan []byte) {
	defer close(p.done)
	var failed error
	for piece := range queue {
		if failed == nil {
			_, failed = p.w.Write(piece)
		}
		p.account(len(piece))
	}
}

func (p *printer) account(n int) {
	p.mu.Lock()
	p.pending -= n
	p.mu.Unlock()
}

// settle waits, not for long, until what was printed so far is handed over.
func (p *printer) settle() {
	for end := time.Now().Add(settleTime); time.Now().Before(end); time.Sleep(time.Millisecond / 2) {
		idle := true
		err := p.raw.Control(func(fd uintptr) {
			p.mu.Lock()
			defer p.mu.Unlock()
			n, err := unix.IoctlGetInt(int(fd), unix.TIOCINQ)
			idle = err != nil || n == 0 && p.pending == 0
		})
		if err != nil || idle {
			return
		}
	}
}

// finish waits, not for long, until all is handed over; the jail is gone.
func (p *printer) finish() {
	select {
	case <-p.done:
	case <-time.After(finishTime):
	}
}
