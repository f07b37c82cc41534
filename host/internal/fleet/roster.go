package fleet

import (
	"context"
	"crypto/sha256"
	"crypto/tls"
	"encoding/hex"
	"encoding/json"
	"errors"
	"hash/fnv"
	"io"
	"log/slog"
	"net"
	"reflect"
	"slices"
	"sync"
	"time"

	"github.com/cape-functions/cape/core/wire"
)

const (
	// rosterAge is how long a list of workers is used: what the database is asked
	// does not grow with the requests.
	rosterAge = 500 * time.Millisecond
	// dialWait bounds the connection to one worker.
	dialWait = 2 * time.Second
	// tries is how many workers are tried for one connection.
	tries = 3
)

// ErrNoWorker: no worker takes sessions.
var ErrNoWorker = errors.New("no worker is ready")

// Roster is the control plane's view of the workers. It is safe for concurrent use.
type Roster struct {
	rows interface {
		Workers(ctx context.Context, age time.Duration) ([][]byte, error)
	}
	log *slog.Logger

	mu    sync.Mutex
	at    time.Time
	ready []Worker
}

// NewRoster returns a Roster of what rows hold; *store.Store is one.
func NewRoster(rows interface {
	Workers(ctx context.Context, age time.Duration) ([][]byte, error)
}, log *slog.Logger) *Roster {
	return &Roster{rows: rows, log: log}
}

// Ready returns the workers that take sessions.
func (r *Roster) Ready(ctx context.Context) []Worker {
	r.mu.Lock()
	defer r.mu.Unlock()
	if time.Since(r.at) < rosterAge {
		return r.ready
	}
	all, err := r.rows.Workers(ctx, Lease)
	if err != nil { // the last list is better than none, for as long as leases last
		r.log.Error("listing workers", "error", err)
		if time.Since(r.at) > Lease {
			r.ready = nil
		}
		return r.ready
	}
	r.at, r.ready = time.Now(), nil
	for _, b := range all {
		var w Worker
		if json.Unmarshal(b, &w) == nil && w.Validate() == nil && w.State == Ready {
			r.ready = append(r.ready, w)
		}
	}
	return r.ready
}

// Order returns the workers that take sessions, best first. The same key goes to
// the same worker while the set stays the same: what it loaded once, it has. Full
// ones come last.
func (r *Roster) Order(ctx context.Context, key string) []Worker {
	out := slices.Clone(r.Ready(ctx))
	score := func(w Worker) uint64 {
		h := fnv.New64a()
		_, _ = io.WriteString(h, key+"\x00"+w.Name) // a hash takes everything
		n := h.Sum64()
		n ^= n >> 33 // FNV's last bytes hardly reach the high bits
		n *= 0xff51afd7ed558ccd
		return n ^ n>>33
	}
	slices.SortStableFunc(out, func(a, b Worker) int {
		aFull, bFull := a.Connections >= a.Capacity, b.Connections >= b.Capacity
		switch {
		case aFull != bFull && aFull:
			return 1
		case aFull != bFull:
			return -1
		case score(a) > score(b):
			return -1
		}
		return 1
	})
	return out
}

// Dial connects to the best worker for key that answers.
func (r *Roster) Dial(ctx context.Context, key string) (net.Conn, error) {
	order := r.Order(ctx, key)
	err := ErrNoWorker
	for _, w := range order[:min(tries, len(order))] {
		var conn net.Conn
		if conn, err = dial(ctx, w); err == nil {
			return conn, nil
		}
		r.log.Warn("a worker did not answer", "name", w.Name, "error", err)
	}
	return nil, err
}

// errPin: somebody else answers in a worker's place.
var errPin = errors.New("it shows another certificate than the worker named")

// dial speaks TLS to exactly the certificate that the worker named under the
// worker token: names and authorities have no say.
func dial(ctx context.Context, w Worker) (net.Conn, error) {
	ctx, cancel := context.WithTimeout(ctx, dialWait)
	defer cancel()
	d := tls.Dialer{Config: &tls.Config{
		InsecureSkipVerify: true, MinVersion: tls.VersionTLS13, NextProtos: []string{"http/1.1"},
		VerifyConnection: func(s tls.ConnectionState) error {
			if sum := sha256.Sum256(s.PeerCertificates[0].Raw); hex.EncodeToString(sum[:]) != w.Certificate {
				return errPin
			}
			return nil
		},
	}}
	return d.DialContext(ctx, "tcp", w.Address)
}

// Releases is what the ready workers run, each kind once.
func (r *Roster) Releases(ctx context.Context) []wire.Release {
	var out []wire.Release
	for _, w := range r.Ready(ctx) {
		for _, release := range w.Releases {
			if !slices.ContainsFunc(out, func(have wire.Release) bool { return reflect.DeepEqual(have, release) }) {
				out = append(out, release)
			}
		}
	}
	return out
}
