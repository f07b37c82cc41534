package hostile

import (
	"context"
	"errors"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/coder/websocket"

	"github.com/cape-functions/cape/client"
	"github.com/cape-functions/cape/core/wire"
)

// handshakes begins far more than the enclave holds and says nothing in any: honest runs find a way in, long before the
// silent ones are ended for their silence.
func (a *arena) handshakes(t *testing.T) {
	const many = 2*wire.MaxHandshakes + 100
	url := strings.Replace(a.URL, "http", "ws", 1) + "/v1/key"
	refused, began := 0, time.Now()
	for range many {
		ws, resp, err := websocket.Dial(t.Context(), url, &websocket.DialOptions{Subprotocols: []string{wire.SubprotocolV2}})
		switch {
		case err == nil:
			defer ws.CloseNow()
		case resp != nil && resp.StatusCode == 503:
			refused++
		default:
			t.Fatalf("a handshake: %v", err)
		}
	}
	t.Logf("%d of %d refused within %s", refused, many, time.Since(began))
	limit := time.Now().Add(wire.Handshake / 2)
	for {
		_, err := a.client.Run(t.Context(), a.honest, []byte("x"))
		if err == nil {
			break
		}
		if !isRefusal(err) {
			t.Fatal(err)
		}
		if time.Now().After(limit) {
			t.Fatalf("silent handshakes keep others out: %v", err)
		}
		time.Sleep(100 * time.Millisecond)
	}
}

// isRefusal tells whether the platform said that there is no room.
func isRefusal(err error) bool {
	var remote *client.RemoteError
	return errors.As(err, &remote) && (remote.Code == wire.CodeUnavailable || remote.Code == wire.CodeQuota) && remote.Text != ""
}

// sessions: one user takes all that there are to get, and then 200 at once. All of them finish, some with a result and some
// with a clear error, and another user finds room meanwhile.
func (a *arena) sessions(t *testing.T) {
	const most, places, at = wire.MaxSessions, 5, 200
	var mu sync.Mutex
	var held []*client.Session
	defer func() {
		for _, s := range held {
			s.Close()
		}
	}()
	crowd := func(n int, one func()) {
		var wg sync.WaitGroup
		for range n {
			wg.Go(one)
		}
		wg.Wait()
	}
	crowd(8, func() {
		for {
			s, err := a.eve.Connect(t.Context(), a.anybody)
			mu.Lock()
			if err == nil {
				held = append(held, s)
			}
			n := len(held)
			mu.Unlock()
			if err != nil && !isRefusal(err) {
				t.Error(err)
			}
			if err != nil || n >= most {
				return
			}
		}
	})
	if n := len(held); n < most/4 || n > most/2 {
		t.Errorf("one user got %d of %d places", n, most)
	}
	a.checkHonest(t)
	for range min(places, len(held)) {
		held[0].Close()
		held = held[1:]
	}
	ran, refused := 0, 0
	ctx, cancel := context.WithTimeout(t.Context(), a.patience(2*time.Minute))
	defer cancel()
	crowd(at, func() {
		_, err := a.eve.Run(ctx, a.anybody, a.order("files:hidden", nil))
		mu.Lock()
		defer mu.Unlock()
		switch {
		case err == nil:
			ran++
		case isRefusal(err):
			refused++
		default:
			t.Errorf("neither a result nor a refusal: %v", err)
		}
	})
	t.Logf("%d held, %d of %d ran, %d were refused", len(held), ran, at, refused)
	if ran == 0 || refused == 0 || ran+refused != at {
		t.Errorf("%d ran, %d were refused", ran, refused)
	}
	a.checkHonest(t)
}

// requests: one user's functions make the most of cape_encrypt, and another user's is served all the same.
func (a *arena) requests(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	var wg sync.WaitGroup
	defer wg.Wait()
	defer cancel()
	for range 8 {
		s, err := a.eve.Connect(ctx, a.anybody)
		if err != nil {
			t.Fatal(err)
		}
		wg.Go(func() {
			defer s.Close()
			_, _ = s.Invoke(ctx, a.order("rpc:trickle", nil)) // until it is given up
		})
	}
	time.Sleep(3 * time.Second) // they have begun by now
	for range 3 {
		began := time.Now()
		got := outcome(a.client.Run(t.Context(), a.neighbour, a.order("rpc:large", nil)))
		if d := time.Since(began); got != "done" || d > a.patience(5*time.Second) {
			t.Errorf("%q after %s", got, d)
		}
	}
}
