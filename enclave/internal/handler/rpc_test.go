package handler

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"io"
	"net"
	"runtime"
	"strings"
	"testing"
	"time"
)

// asked has answer serve one request, which write sends, and returns what it says.
func asked(t *testing.T, reserve reserveFunc, write func(net.Conn)) rpcResponse {
	t.Helper()
	near, far := net.Pipe()
	defer near.Close()
	go write(near)
	done := make(chan struct{})
	go func() {
		defer close(done)
		defer far.Close()
		answer(t.Context(), far, func(context.Context, string, []byte) ([]byte, error) { return []byte("cape:"), nil }, reserve)
	}()
	var res rpcResponse
	if err := json.NewDecoder(near).Decode(&res); err != nil {
		t.Fatal(err)
	}
	near.Close()
	<-done
	return res
}

func encrypt(size int) string {
	return `{"id":1,"method":"` + MethodEncrypt + `","params":["` + strings.Repeat("A", size) + `"]}`
}

// TestLargeRequestsTakeOfTheShare: small ones need nothing, large ones for as long as they take.
func TestLargeRequestsTakeOfTheShare(t *testing.T) {
	held, most := int64(0), int64(0)
	reserve := func(n int64) (func(), error) {
		held += n
		most = max(most, held)
		return func() { held -= n }, nil
	}
	for _, size := range []int{8, smallRPC / 2, 1 << 20, 16 << 20} {
		most = 0
		if res := asked(t, reserve, func(c net.Conn) { io.WriteString(c, encrypt(size)) }); res.Error != nil {
			t.Errorf("%d: %s", size, *res.Error)
		}
		if large := size > smallRPC; (most >= int64(size)) != large || held != 0 {
			t.Errorf("%d: %d bytes were taken, %d are", size, most, held)
		}
	}
}

func TestLargeRequestsBeyondTheShare(t *testing.T) {
	reserve := func(int64) (func(), error) {
		return func() { t.Error("what was not taken is given back") }, errors.New("full")
	}
	if res := asked(t, reserve, func(c net.Conn) { io.WriteString(c, encrypt(1<<20)) }); res.Error == nil || *res.Error != errLarge.Error() {
		t.Errorf("got %v", res)
	}
	if res := asked(t, reserve, func(c net.Conn) { io.WriteString(c, encrypt(1<<10)) }); res.Error != nil {
		t.Errorf("a small one: %s", *res.Error)
	}
}

// TestLargeRequestsThatStop give up what they hold long before their time is over.
func TestLargeRequestsThatStop(t *testing.T) {
	began := time.Now()
	res := asked(t, nil, func(c net.Conn) { io.WriteString(c, encrypt(1 << 20)[:1<<19]) })
	if d := time.Since(began); res.Error == nil || d > rpcTime/2 {
		t.Errorf("%v after %s", res.Error, d)
	}
}

// TestParametersAreNotKept: millions of small ones would take many times their size.
func TestParametersAreNotKept(t *testing.T) {
	request := []byte(`{"id":1,"method":"` + MethodEncrypt + `","params":[` + strings.Repeat(`"",`, 6<<20) + `""]}`)
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	res := asked(t, nil, func(c net.Conn) { io.Copy(c, bytes.NewReader(request)) })
	runtime.ReadMemStats(&after)
	if res.Error == nil || *res.Error != errRPC.Error() {
		t.Errorf("got %v", res)
	}
	if n := after.TotalAlloc - before.TotalAlloc; n > 6*uint64(len(request)) {
		t.Errorf("%d bytes for a request of %d", n, len(request))
	}
}
