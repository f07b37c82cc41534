package handler

import (
	"fmt"
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
	// maxWaiting bounds what waits for the writer; more is left out.
	maxWaiting = 256 << 10
	printPiece = 16 << 10
	// freeReads is how often a pipe is read at once. From then on every breath reads there is a pause: who prints
	// more than is kept, or byte by byte, does not keep the runtime busy.
	freeReads = maxPrinted / printPiece
	breath    = 4
	pause     = 5 * time.Millisecond
	// settleTime bounds how long a result waits for what was printed before it.
	settleTime = 100 * time.Millisecond
	// finishTime bounds how long Close waits for the writer.
	finishTime = time.Second

	// What stands in the place of what is left out.
	omitted = "\n[... %d bytes left out]\n"
	tooMuch = "\n[... all further bytes left out: more than %d were printed]\n"
)

// printer carries what a function prints. The pipe is always read, so that a
// function is never held up by whoever looks on.
type printer struct {
	r    *os.File
	w    io.Writer
	raw  syscall.RawConn
	wake chan struct{} // holds one: there is something to write
	done chan struct{}

	mu      sync.Mutex
	waiting []byte
	dropped int  // bytes read after waiting, which was full
	kept    int  // bytes that ever were in waiting
	writing bool // the writer has something
}

func newPrinter(r *os.File, w io.Writer) *printer {
	return &printer{r: r, w: w, wake: make(chan struct{}, 1), done: make(chan struct{})}
}

func (p *printer) start() (err error) {
	if p.raw, err = p.r.SyscallConn(); err != nil {
		return err
	}
	go p.read()
	go p.write()
	return nil
}

func (p *printer) read() {
	defer close(p.wake)
	buf := make([]byte, printPiece)
	for reads := 1; ; reads++ {
		n := 0
		err := p.raw.Read(func(fd uintptr) bool {
			p.mu.Lock()
			defer p.mu.Unlock()
			var err error
			n, err = unix.Read(int(fd), buf)
			if n > 0 {
				p.keep(buf[:n])
			}
			return err != unix.EAGAIN && err != unix.EINTR
		})
		if err != nil || n <= 0 {
			return
		}
		select {
		case p.wake <- struct{}{}:
		default:
		}
		if reads > freeReads && reads%breath == 0 {
			time.Sleep(pause)
		}
	}
}

// keep takes what was read, or counts it. Whoever calls holds mu.
func (p *printer) keep(piece []byte) {
	if p.kept == maxPrinted {
		return
	}
	if p.dropped > 0 || len(p.waiting)+len(piece) > maxWaiting {
		p.dropped += len(piece)
		return
	}
	n := min(len(piece), maxPrinted-p.kept)
	p.waiting = append(p.waiting, piece[:n]...)
	if p.kept += n; p.kept == maxPrinted {
		p.waiting = fmt.Appendf(p.waiting, tooMuch, maxPrinted)
	}
}

func (p *printer) write() {
	defer close(p.done)
	var failed error
	for range p.wake {
		for piece := p.take(); len(piece) > 0; piece = p.take() {
			if failed == nil {
				_, failed = p.w.Write(piece)
			}
		}
	}
}

// take returns what is to be written next, nothing when all is.
func (p *printer) take() []byte {
	p.mu.Lock()
	defer p.mu.Unlock()
	piece := p.waiting
	if p.dropped > 0 {
		piece = fmt.Appendf(piece, omitted, p.dropped)
	}
	p.waiting, p.dropped, p.writing = nil, 0, len(piece) > 0
	return piece
}

// settle waits, not for long, until what was printed so far is handed over.
func (p *printer) settle() {
	for end := time.Now().Add(settleTime); time.Now().Before(end); time.Sleep(time.Millisecond / 2) {
		idle := true
		err := p.raw.Control(func(fd uintptr) {
			p.mu.Lock()
			defer p.mu.Unlock()
			n, err := unix.IoctlGetInt(int(fd), unix.TIOCINQ)
			idle = err != nil || n == 0 && len(p.waiting)+p.dropped == 0 && !p.writing
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
