package vsockproxy

import (
	"errors"
	"io"
	"net"
	"sync"
	"sync/atomic"
	"time"
)

const bufferSize = 32 << 10

// pipe moves bytes both ways until both sides have ended, one has failed, or
// nothing moved for idle. It closes both.
func pipe(local, remote net.Conn, idle time.Duration, sent, received *atomic.Int64) {
	var last atomic.Int64
	touch := func() { last.Store(time.Now().UnixNano()) }
	touch()
	done := make(chan struct{})
	var wg sync.WaitGroup
	wg.Go(func() { forward(remote, local, sent, touch, func() { closeBoth(local, remote) }) })
	wg.Go(func() { forward(local, remote, received, touch, func() { closeBoth(local, remote) }) })
	go func() {
		wg.Wait()
		close(done)
	}()
	for {
		rest := idle - time.Since(time.Unix(0, last.Load()))
		if rest <= 0 {
			closeBoth(local, remote)
			<-done
			return
		}
		t := time.NewTimer(rest)
		select {
		case <-t.C:
		case <-done:
			t.Stop()
			closeBoth(local, remote)
			return
		}
	}
}

func closeBoth(a, b net.Conn) {
	_ = a.Close()
	_ = b.Close()
}

// forward copies one direction. At its end it closes that direction alone, so
// that the other side can still answer.
func forward(to, from net.Conn, count *atomic.Int64, touch, abort func()) {
	buf := make([]byte, bufferSize)
	for {
		n, err := from.Read(buf)
		if n > 0 {
			touch()
			if _, err := to.Write(buf[:n]); err != nil {
				abort()
				return
			}
			touch()
			count.Add(int64(n))
		}
		if errors.Is(err, io.EOF) {
			if half, ok := to.(interface{ CloseWrite() error }); !ok || half.CloseWrite() != nil {
				abort()
			}
			return
		}
		if err != nil {
			abort()
			return
		}
	}
}
