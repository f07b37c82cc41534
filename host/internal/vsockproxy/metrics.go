package vsockproxy

import (
	"bytes"
	"fmt"
	"io"
	"maps"
	"slices"
	"sync/atomic"
)

// stats counts what happened. The set of endpoints never grows.
type stats struct {
	denied    atomic.Int64
	endpoints map[string]*endpointStats
}

type endpointStats struct {
	opened, failed, refused, full atomic.Int64
	active, sent, received        atomic.Int64
}

func (s *stats) prepare(allow map[string]Endpoint) {
	s.endpoints = make(map[string]*endpointStats, len(allow))
	for key := range allow {
		s.endpoints[key] = &endpointStats{}
	}
}

func (s *stats) of(key string) *endpointStats { return s.endpoints[key] }

// WriteMetrics writes counters in the text format of Prometheus
// (https://prometheus.io/docs/instrumenting/exposition_formats/).
func (p *Proxy) WriteMetrics(w io.Writer) error {
	var b bytes.Buffer
	keys := slices.Sorted(maps.Keys(p.stats.endpoints))
	family := func(name, kind, help string) {
		fmt.Fprintf(&b, "# HELP %s %s\n# TYPE %s %s\n", name, help, name, kind)
	}
	family("vsock_proxy_connections_total", "counter", "Connections by endpoint and outcome.")
	for _, k := range keys {
		s := p.stats.endpoints[k]
		for _, o := range []struct {
			name string
			n    int64
		}{{"opened", s.opened.Load()}, {"failed", s.failed.Load()}, {"denied", s.refused.Load()}, {"over_limit", s.full.Load()}} {
			fmt.Fprintf(&b, "vsock_proxy_connections_total{endpoint=%q,outcome=%q} %d\n", k, o.name, o.n)
		}
	}
	family("vsock_proxy_unlisted_total", "counter", "Connections for endpoints that are not on the allow list.")
	fmt.Fprintf(&b, "vsock_proxy_unlisted_total %d\n", p.stats.denied.Load())
	family("vsock_proxy_connections_active", "gauge", "Connections that are open now.")
	for _, k := range keys {
		fmt.Fprintf(&b, "vsock_proxy_connections_active{endpoint=%q} %d\n", k, p.stats.endpoints[k].active.Load())
	}
	family("vsock_proxy_bytes_total", "counter", "Bytes forwarded, by endpoint and direction as the enclave sees it.")
	for _, k := range keys {
		s := p.stats.endpoints[k]
		fmt.Fprintf(&b, "vsock_proxy_bytes_total{endpoint=%q,direction=\"sent\"} %d\n", k, s.sent.Load())
		fmt.Fprintf(&b, "vsock_proxy_bytes_total{endpoint=%q,direction=\"received\"} %d\n", k, s.received.Load())
	}
	_, err := w.Write(b.Bytes())
	return err
}
