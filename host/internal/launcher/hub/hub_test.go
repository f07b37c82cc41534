package hub_test

import (
	"errors"
	"io"
	"log/slog"
	"net"
	"sync"
	"testing"

	"github.com/cape-functions/cape/host/internal/launcher/hub"
	"github.com/cape-functions/cape/host/internal/launcher/hub/testkit"
)

func newHub(t *testing.T) (*hub.Hub, *testkit.Ports) {
	t.Helper()
	ports := testkit.New()
	h := hub.New(hub.Config{Listen: ports.Listen, Peer: ports.Peer, Log: slog.New(slog.DiscardHandler)})
	t.Cleanup(func() { _ = h.Close() })
	return h, ports
}

// says is a service that sends one word.
func says(word string) map[uint32]func(net.Conn) {
	return map[uint32]func(net.Conn){5010: func(c net.Conn) { _, _ = io.WriteString(c, word) }}
}

func hears(t *testing.T, ports *testkit.Ports, cid uint32) string {
	t.Helper()
	c, err := ports.Dial(cid, 5010)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	b, err := io.ReadAll(c)
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

func TestConnectionsGoToTheirOwn(t *testing.T) {
	h, ports := newHub(t)
	for cid, word := range map[uint32]string{16: "sixteen", 17: "seventeen"} {
		if _, err := h.Join(cid, says(word)); err != nil {
			t.Fatal(err)
		}
	}
	for cid, want := range map[uint32]string{16: "sixteen", 17: "seventeen", 18: "", 3: ""} {
		if got := hears(t, ports, cid); got != want {
			t.Errorf("CID %d heard %q, want %q", cid, got, want)
		}
	}
}

func TestOneMemberACID(t *testing.T) {
	h, ports := newHub(t)
	m, err := h.Join(16, says("first"))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := h.Join(16, says("second")); !errors.Is(err, hub.ErrTaken) {
		t.Errorf("a second member: %v", err)
	}
	m.Leave()
	m.Leave()
	if got := hears(t, ports, 16); got != "" {
		t.Errorf("who left still serves: %q", got)
	}
	if _, err := h.Join(16, says("third")); err != nil {
		t.Fatal(err)
	}
	if got := hears(t, ports, 16); got != "third" {
		t.Errorf("%q", got)
	}
}

func TestLeaveEndsConnections(t *testing.T) {
	h, ports := newHub(t)
	var serving sync.WaitGroup
	serving.Add(1)
	m, err := h.Join(16, map[uint32]func(net.Conn){5010: func(c net.Conn) {
		serving.Done()
		_, _ = io.Copy(io.Discard, c)
	}})
	if err != nil {
		t.Fatal(err)
	}
	c, err := ports.Dial(16, 5010)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	serving.Wait()
	m.Leave() // hangs when it does not end the connection
	if _, err := c.Read(make([]byte, 1)); err == nil {
		t.Error("the connection goes on")
	}
}

func TestCloseEndsEverything(t *testing.T) {
	h, _ := newHub(t)
	if _, err := h.Join(16, map[uint32]func(net.Conn){5010: func(c net.Conn) { _, _ = io.Copy(io.Discard, c) }}); err != nil {
		t.Fatal(err)
	}
	if err := h.Close(); err != nil {
		t.Error(err)
	}
	if _, err := h.Join(17, says("late")); !errors.Is(err, hub.ErrClosed) {
		t.Errorf("joining a closed hub: %v", err)
	}
}

func TestAPortThatCannotBeOpened(t *testing.T) {
	h := hub.New(hub.Config{Listen: func(uint32) (net.Listener, error) { return nil, net.ErrClosed }, Log: slog.New(slog.DiscardHandler)})
	if _, err := h.Join(16, says("x")); !errors.Is(err, net.ErrClosed) {
		t.Errorf("%v", err)
	}
}
