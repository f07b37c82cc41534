package serving_test

import (
	"context"
	"io"
	"log/slog"
	"net"
	"net/http"
	"testing"
	"time"

	"github.com/cape-functions/cape/host/internal/serving"
)

func start(t *testing.T, h http.HandlerFunc) (s *serving.Server, l net.Listener, failed chan error) {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	failed = make(chan error, 1)
	return serving.Start(l, h, time.Minute, slog.New(slog.DiscardHandler), failed), l, failed
}

// TestClose: a call that runs may end, one that does not is cut, and nothing has failed.
func TestClose(t *testing.T) {
	for name, tt := range map[string]struct {
		takes, within time.Duration
		ok            bool
	}{"ends": {50 * time.Millisecond, 10 * time.Second, true}, "hangs": {time.Minute, 50 * time.Millisecond, false}} {
		t.Run(name, func(t *testing.T) {
			entered := make(chan struct{})
			s, l, failed := start(t, func(w http.ResponseWriter, r *http.Request) {
				close(entered)
				select {
				case <-time.After(tt.takes):
				case <-r.Context().Done():
				}
				io.WriteString(w, "done")
			})
			answered := make(chan bool, 1)
			go func() {
				req, _ := http.NewRequestWithContext(t.Context(), http.MethodGet, "http://"+l.Addr().String(), nil)
				resp, err := http.DefaultClient.Do(req)
				if err == nil {
					resp.Body.Close()
				}
				answered <- err == nil
			}()
			<-entered
			if err := s.Close(tt.within); err != nil {
				t.Error(err)
			}
			if got := <-answered; got != tt.ok {
				t.Errorf("answered: %v", got)
			}
			select {
			case err := <-failed:
				t.Errorf("failed: %v", err)
			default:
			}
		})
	}
}

func TestFailure(t *testing.T) {
	s, l, failed := start(t, nil)
	l.Close()
	if err := <-failed; err == nil {
		t.Error("no error")
	}
	if err := s.Shutdown(context.Background()); err != nil {
		t.Error(err)
	}
	if err := s.Close(time.Second); err != nil {
		t.Error(err)
	}
}
