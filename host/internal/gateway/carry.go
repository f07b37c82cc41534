package gateway

import (
	"errors"
	"io"
	"net"
	"syscall"
	"time"
)

const (
	// burst is read at once while data flows, in a buffer that is borrowed for that read.
	burst = 64 << 10
	// resident is held by a direction whose transport cannot be waited for without a buffer (TLS).
	resident = 4 << 10
)

// carry moves bytes both ways until both directions have ended.
func (g *Gateway) carry(p *pair, early []byte) {
	defer g.leave(p)
	timer := time.AfterFunc(lifetime, p.close)
	defer timer.Stop()
	back := make(chan struct{})
	go func() {
		defer close(back)
		g.down(p)
	}()
	g.up(p, early)
	<-back
}

// up moves what the client says until it says no more. When the enclave takes
// no more, the rest is read and dropped: a connection closed under a client that
// writes would lose it the enclave's last words.
func (g *Gateway) up(p *pair, early []byte) {
	read := g.source(p.client)
	taken := true
	if len(early) > 0 {
		_, err := p.enclave.Write(early)
		taken = err == nil
	}
	err := read(func(b []byte) error {
		if taken {
			_, err := p.enclave.Write(b)
			taken = err == nil
		}
		return nil
	})
	if err != nil { // not an orderly end: nobody waits for an answer
		p.close()
		return
	}
	endWriting(p.enclave)
}

// down moves what the enclave says. When it says no more, that is all there
// is: the client gets a moment to read it, and then the connection ends.
func (g *Gateway) down(p *pair) {
	var lost error
	_ = g.source(p.enclave)(func(b []byte) error { // an enclave that was killed has no orderly end
		_, lost = p.client.Write(b)
		return lost
	})
	if lost != nil {
		p.close()
		return
	}
	endWriting(p.client)
	_ = p.enclave.Close()
	_ = p.client.SetReadDeadline(time.Now().Add(lingerWait)) // fails when it is closed already
}

// endWriting tells the other side that no more comes, if the transport can.
func endWriting(c net.Conn) {
	if half, ok := c.(interface{ CloseWrite() error }); ok && half.CloseWrite() == nil {
		return
	}
	_ = c.Close()
}

// source returns a function that passes everything conn says to a callback
// until the end (nil), a read error, or the callback's error.
func (g *Gateway) source(conn net.Conn) func(func([]byte) error) error {
	if s, ok := conn.(syscall.Conn); ok {
		if raw, err := s.SyscallConn(); err == nil {
			return func(pass func([]byte) error) error { return g.readRaw(raw, pass) }
		}
	}
	return func(pass func([]byte) error) error { return readPlain(conn, pass) }
}

// readRaw borrows a buffer only when the kernel has data, so that an idle
// connection holds none.
func (g *Gateway) readRaw(raw syscall.RawConn, pass func([]byte) error) error {
	for {
		var buf *[burst]byte
		var n int
		var failed error
		err := raw.Read(func(fd uintptr) bool {
			buf = g.buffers.Get().(*[burst]byte)
			for {
				n, failed = syscall.Read(int(fd), buf[:])
				if !errors.Is(failed, syscall.EINTR) {
					break
				}
			}
			if errors.Is(failed, syscall.EAGAIN) {
				g.buffers.Put(buf)
				buf = nil
				return false
			}
			return true
		})
		if err == nil {
			err = failed
		}
		if err == nil && n > 0 {
			err = pass(buf[:n])
		}
		if buf != nil {
			g.buffers.Put(buf)
		}
		if err != nil || n == 0 {
			return err
		}
	}
}

func readPlain(conn net.Conn, pass func([]byte) error) error {
	buf := make([]byte, resident)
	for {
		n, err := conn.Read(buf)
		if n > 0 {
			if err := pass(buf[:n]); err != nil {
				return err
			}
		}
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return err
		}
	}
}
