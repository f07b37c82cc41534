// Package serving runs the host's HTTP servers: deadlines, the limit of a request's
// head, and an end that lets calls end.
package serving

import (
	"context"
	"errors"
	"log/slog"
	"net"
	"net/http"
	"time"

	"github.com/cape-functions/cape/core/wire"
)

const (
	headWithin = 10 * time.Second
	idle       = 2 * time.Minute
)

// Server is a running server.
type Server struct {
	http  *http.Server
	ended chan struct{}
}

// Start serves h on l in the background. write bounds an answer, 0 means not; a gateway takes that off what it carries.
// failed gets what ends the server but Close and Shutdown; it must have room.
func Start(l net.Listener, h http.Handler, write time.Duration, log *slog.Logger, failed chan<- error) *Server {
	s := &Server{ended: make(chan struct{}), http: &http.Server{
		Handler: h, ReadHeaderTimeout: headWithin, WriteTimeout: write, IdleTimeout: idle, MaxHeaderBytes: wire.MaxHeader,
		ErrorLog: slog.NewLogLogger(log.Handler(), slog.LevelDebug),
	}}
	go func() {
		defer close(s.ended)
		if err := s.http.Serve(l); !errors.Is(err, http.ErrServerClosed) {
			failed <- err
		}
	}()
	return s
}

// Shutdown takes no more connections and waits for calls, until ctx ends. Close must follow.
func (s *Server) Shutdown(ctx context.Context) error { return s.http.Shutdown(ctx) }

// Close ends the server; calls may take within to end.
func (s *Server) Close(within time.Duration) error {
	ctx, cancel := context.WithTimeout(context.Background(), within)
	defer cancel()
	err := s.http.Shutdown(ctx)
	if err != nil {
		err = s.http.Close()
	}
	<-s.ended
	return err
}
