package enclaves_test

import (
	"context"
	"errors"
	"io"
	"log/slog"
	"net"
	"net/http"
	"testing"
	"time"

	"github.com/cape-functions/cape/core/wire"
	"github.com/cape-functions/cape/host/internal/enclaves"
	"github.com/cape-functions/cape/host/internal/launcher"
	"github.com/cape-functions/cape/host/internal/launcher/testkit"
	"github.com/cape-functions/cape/host/internal/store/link"
)

func spec(t *testing.T) launcher.Spec {
	t.Helper()
	boot := link.NewServer(link.Boot{Message: func(context.Context) (wire.Boot, error) { return wire.Boot{Mode: wire.ModeServe}, nil }}.Handler(), slog.New(slog.DiscardHandler))
	t.Cleanup(func() { _ = boot.Close() })
	return launcher.Spec{Services: map[uint32]func(net.Conn){wire.PortBoot: boot.Handle}}
}

func start(t *testing.T, l *testkit.Launcher, count int) *enclaves.Keeper {
	t.Helper()
	k, err := enclaves.Start(t.Context(), enclaves.Config{Launcher: l, Spec: spec(t), Count: count, Log: slog.New(slog.DiscardHandler)})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = k.Close() })
	return k
}

func eventually(t *testing.T, what string, ok func() bool) {
	t.Helper()
	for end := time.Now().Add(10 * time.Second); !ok(); time.Sleep(5 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatal(what)
		}
	}
}

func TestEveryEnclaveGetsConnections(t *testing.T) {
	l := &testkit.Launcher{Session: http.NotFoundHandler(), Measurements: map[string]string{"PCR0": "a"}}
	k := start(t, l, 3)
	if k.Running() != 3 || len(k.Releases()) != 1 {
		t.Errorf("%d running, releases %v", k.Running(), k.Releases())
	}
	for range 3 {
		c, err := k.Dial(t.Context(), wire.PortSession)
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
	}
	for i, e := range l.All() {
		if e.Dialled() != 1 {
			t.Errorf("enclave %d got %d of 3 connections", i, e.Dialled())
		}
	}
}

func TestOneThatEndedIsReplaced(t *testing.T) {
	l := &testkit.Launcher{Session: http.NotFoundHandler()}
	k := start(t, l, 2)
	l.Set(func(l *testkit.Launcher) { l.Err = errors.New("no memory") })
	l.All()[0].End(io.ErrUnexpectedEOF)
	eventually(t, "its end was not noticed", func() bool { return k.Running() == 1 })
	for range 4 { // the other one serves meanwhile
		c, err := k.Dial(t.Context(), wire.PortSession)
		if err != nil {
			t.Fatal(err)
		}
		c.Close()
	}
	l.Set(func(l *testkit.Launcher) { l.Err = nil })
	eventually(t, "it was not started again", func() bool { return k.Running() == 2 })
}

func TestCloseEndsAll(t *testing.T) {
	l := &testkit.Launcher{Session: http.NotFoundHandler()}
	k := start(t, l, 2)
	if err := k.Close(); err != nil {
		t.Fatal(err)
	}
	for i, e := range l.All() {
		select {
		case <-e.Done():
		default:
			t.Errorf("enclave %d still runs", i)
		}
	}
	if _, err := k.Dial(t.Context(), wire.PortSession); !errors.Is(err, enclaves.ErrNone) {
		t.Errorf("dialling: %v", err)
	}
}

func TestNoneIsLeftWhenOneDoesNotStart(t *testing.T) {
	l := &testkit.Launcher{Session: http.NotFoundHandler()}
	ups := 0
	_, err := enclaves.Start(t.Context(), enclaves.Config{Launcher: l, Spec: spec(t), Count: 2, Log: slog.New(slog.DiscardHandler),
		Up: func(wire.Release) error {
			if ups++; ups == 2 {
				return io.ErrClosedPipe
			}
			return nil
		}})
	if !errors.Is(err, io.ErrClosedPipe) {
		t.Fatal(err)
	}
	for i, e := range l.All() {
		select {
		case <-e.Done():
		default:
			t.Errorf("enclave %d still runs", i)
		}
	}
}
