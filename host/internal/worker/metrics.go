package worker

import (
	"fmt"
	"io"
	"net"
	"net/http"

	"github.com/cape-functions/cape/host/internal/fleet"
)

// openMetrics serves GET /metrics on an address of its own, if one was given.
func (w *worker) openMetrics(failed chan<- error) error {
	if w.cfg.Metrics == "" {
		return nil
	}
	l, err := net.Listen("tcp", w.cfg.Metrics)
	if err != nil {
		return fmt.Errorf("serving metrics: %w", err)
	}
	mux := http.NewServeMux()
	mux.HandleFunc("GET /metrics", func(rw http.ResponseWriter, _ *http.Request) {
		rw.Header().Set("Content-Type", "text/plain; version=0.0.4; charset=utf-8")
		_ = w.writeMetrics(rw) // who asked has gone
	})
	w.listen(l, mux, failed)
	return nil
}

// writeMetrics writes the text format of Prometheus: the worker's own figures and
// those of its proxy.
func (w *worker) writeMetrics(out io.Writer) error {
	s := w.self()
	w.mu.Lock()
	k, proxy := w.keeper, w.proxy
	w.mu.Unlock()
	running, ready := 0, 0
	if k != nil {
		running = k.Running()
	}
	if s.State == fleet.Ready {
		ready = 1
	}
	for _, m := range []struct {
		name, help string
		value      int
	}{
		{"cape_worker_ready", "1 while new sessions are taken.", ready},
		{"cape_worker_enclaves_wanted", "Enclaves that should run.", w.cfg.Enclave.Count},
		{"cape_worker_enclaves_running", "Enclaves that run.", running},
		{"cape_worker_sessions", "Sessions that are carried now.", s.Connections},
		{"cape_worker_sessions_capacity", "Sessions that can be carried.", s.Capacity},
	} {
		if _, err := fmt.Fprintf(out, "# HELP %s %s\n# TYPE %s gauge\n%s %d\n", m.name, m.help, m.name, m.name, m.value); err != nil {
			return err
		}
	}
	if proxy == nil {
		return nil
	}
	return proxy.WriteMetrics(out)
}
