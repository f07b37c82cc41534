package gateway

import (
	"context"
	"io"
	"net/http"
	"testing"
	"time"
)

func TestDrain(t *testing.T) {
	g, s := server(t, enclave(t, echo), 10)
	conn := dialTCP(t, s)
	io.WriteString(conn, upgrade)
	heard := make([]byte, len(told))
	if _, err := io.ReadFull(conn, heard); err != nil {
		t.Fatal(err)
	}
	short, cancel := context.WithTimeout(t.Context(), 300*time.Millisecond)
	defer cancel()
	if left := g.Drain(short); left != 1 {
		t.Fatalf("%d connections left, want the one that runs", left)
	}
	resp, err := http.Get(s.URL + "/v1/run/x")
	if err != nil {
		t.Fatal(err)
	}
	resp.Body.Close()
	if resp.StatusCode != http.StatusServiceUnavailable || resp.Header.Get("Retry-After") == "" {
		t.Errorf("a new connection while draining: %s", resp.Status)
	}
	io.WriteString(conn, "still here")
	more := make([]byte, 10)
	if _, err := io.ReadFull(conn, more); err != nil || string(more) != "still here" {
		t.Fatalf("the running session was cut: %q, %v", more, err)
	}
	if err := conn.CloseWrite(); err != nil {
		t.Fatal(err)
	}
	if left := g.Drain(t.Context()); left != 0 {
		t.Errorf("%d connections left", left)
	}
}
