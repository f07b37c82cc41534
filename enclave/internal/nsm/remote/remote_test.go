package remote

import (
	"encoding/binary"
	"errors"
	"io"
	"net"
	"sync"
	"testing"
	"time"

	"github.com/cape-functions/cape/enclave/internal/nsm"
	"github.com/cape-functions/cape/enclave/internal/nsm/testkit"
)

// serve answers requests on conn by m until it is closed.
func serve(conn net.Conn, m *testkit.Module) {
	defer conn.Close()
	for {
		var head [4]byte
		if _, err := io.ReadFull(conn, head[:]); err != nil {
			return
		}
		req := make([]byte, binary.BigEndian.Uint32(head[:]))
		if _, err := io.ReadFull(conn, req); err != nil {
			return
		}
		answer, err := m.Exchange(req)
		if err != nil {
			return
		}
		if _, err := conn.Write(append(binary.BigEndian.AppendUint32(nil, uint32(len(answer))), answer...)); err != nil {
			return
		}
	}
}

func TestExchange(t *testing.T) {
	ours, theirs := net.Pipe()
	go serve(theirs, testkit.New("remote test", time.Now))
	d := nsm.New(Dial(ours))
	defer d.Close()
	var wg sync.WaitGroup
	for range 8 {
		wg.Go(func() {
			if _, err := d.Attest(nsm.Request{}); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	if _, err := d.Attest(nsm.Request{UserData: []byte("u")}); err != nil {
		t.Error(err)
	}
	if err := d.Lock(8); !errors.Is(err, nsm.ErrReadOnlyIndex) {
		t.Errorf("got %v", err)
	}
	if _, err := d.Time(); err != nil {
		t.Errorf("after a refusal: %v", err)
	}
}

func TestBrokenStream(t *testing.T) {
	for _, tc := range []struct {
		name   string
		answer []byte
		want   error
	}{
		{"closed", nil, nsm.ErrTransport},
		{"cut in the length", []byte{0, 0}, nsm.ErrTransport},
		{"cut in the body", []byte{0, 0, 0, 4, 1}, nsm.ErrTransport},
		{"empty", []byte{0, 0, 0, 0}, nsm.ErrAnswer},
		{"larger than the limit", []byte{0, 0, 0x30, 1}, nsm.ErrAnswer},
		{"4 GiB", []byte{0xff, 0xff, 0xff, 0xff}, nsm.ErrAnswer},
	} {
		t.Run(tc.name, func(t *testing.T) {
			ours, theirs := net.Pipe()
			tr := Dial(ours)
			defer tr.Close()
			go func() {
				defer theirs.Close()
				_, _ = io.ReadFull(theirs, make([]byte, 5))
				_, _ = theirs.Write(tc.answer)
			}()
			if b, err := tr.Exchange([]byte{0x60}); b != nil || !errors.Is(err, tc.want) {
				t.Error(err)
			}
			if _, err := tr.Exchange([]byte{0x60}); !errors.Is(err, nsm.ErrTransport) {
				t.Errorf("the next exchange: %v", err)
			}
		})
	}
}

// A late answer must not become the answer to the next request.
func TestTimeout(t *testing.T) {
	ours, theirs := net.Pipe()
	defer theirs.Close()
	tr := &transport{conn: ours, timeout: 20 * time.Millisecond}
	go func() { _, _ = io.ReadFull(theirs, make([]byte, 5)) }()
	if _, err := tr.Exchange([]byte{0x60}); !errors.Is(err, nsm.ErrTransport) {
		t.Errorf("got %v", err)
	}
	tr.timeout = 10 * time.Second
	go func() {
		if _, err := io.ReadFull(theirs, make([]byte, 5)); err == nil {
			_, _ = theirs.Write([]byte{0, 0, 0, 1, 0x61})
		}
	}()
	if b, err := tr.Exchange([]byte{0x60}); !errors.Is(err, nsm.ErrTransport) {
		t.Errorf("the next exchange: %x, %v", b, err)
	}
}

func TestRequestLimits(t *testing.T) {
	ours, theirs := net.Pipe()
	go serve(theirs, testkit.New("remote test", time.Now))
	tr := Dial(ours)
	defer tr.Close()
	for _, n := range []int{0, nsm.MaxRequest + 1} {
		if _, err := tr.Exchange(make([]byte, n)); !errors.Is(err, nsm.ErrTooLarge) {
			t.Errorf("%d bytes: %v", n, err)
		}
	}
	if _, err := nsm.New(tr).Time(); err != nil {
		t.Errorf("after a refused request: %v", err)
	}
}
