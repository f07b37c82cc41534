package localkms

import (
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"regexp"
	"sync"
	"time"

	"github.com/cape-functions/cape/core/attest/chain"
	"github.com/cape-functions/cape/core/wire"
	"github.com/cape-functions/cape/host/internal/localkms/keystore"
)

const (
	defaultRegion  = "us-east-1"
	defaultAccount = "000000000000"
	maxConns       = 512
	maxInFlight    = 64
)

// Server is a running local KMS. It is an http.Handler that tells KMS and STS
// apart by X-Amz-Target and Action. It is safe for concurrent use.
type Server struct {
	region, account string
	roots           func() [][]byte
	now             func() time.Time
	log             *slog.Logger
	store           *keystore.Store
	authority       *authority
	chains          *chain.Verifier
	pool            *pool
	operations      map[string]operation
	tokenKey        []byte // seals session tokens
	importKey       []byte // seals import tokens
	inFlight        chan struct{}
	http            *http.Server
	closing         sync.Once

	mu      sync.RWMutex
	keys    map[string]*key
	aliases map[string]alias
}

var (
	regionPattern  = regexp.MustCompile(`^[a-z]{2,}(-[a-z]+)+-[0-9]+$`)
	accountPattern = regexp.MustCompile(`^[0-9]{12}$`)
)

func (c *Config) normalize() error {
	if c.Region == "" {
		c.Region = defaultRegion
	}
	if c.AccountID == "" {
		c.AccountID = defaultAccount
	}
	if len(c.Names) == 0 {
		c.Names = []string{HostName, "localhost", "127.0.0.1", "::1"}
	}
	if c.Pairs == 0 {
		c.Pairs = defaultPairs
	}
	if c.AttestationRoots == nil {
		c.AttestationRoots = func() [][]byte { return nil }
	}
	if c.Now == nil {
		c.Now = time.Now
	}
	if c.Log == nil {
		c.Log = slog.New(slog.DiscardHandler)
	}
	switch {
	case c.Dir == "":
		return fmt.Errorf("%w: no directory", ErrConfig)
	case !regionPattern.MatchString(c.Region):
		return fmt.Errorf("%w: %q is not a region; an example is us-east-1", ErrConfig, c.Region)
	case !accountPattern.MatchString(c.AccountID):
		return fmt.Errorf("%w: an account has 12 digits, not %q", ErrConfig, c.AccountID)
	case c.Pairs > maxPairs:
		return fmt.Errorf("%w: at most %d pairs can be kept ready", ErrConfig, maxPairs)
	}
	return nil
}

// Open reads or makes the directory and returns a Server, which must be
// closed. Errors wrap ErrConfig, ErrInUse or ErrStore.
func Open(c Config) (*Server, error) {
	if err := c.normalize(); err != nil {
		return nil, err
	}
	store, err := keystore.Open(c.Dir)
	if errors.Is(err, keystore.ErrInUse) {
		return nil, fmt.Errorf("%w: %s; stop the other process first", ErrInUse, c.Dir)
	}
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrStore, err)
	}
	s := &Server{
		region: c.Region, account: c.AccountID,
		roots: c.AttestationRoots, now: c.Now, log: c.Log, store: store,
		chains:   chain.New(),
		inFlight: make(chan struct{}, maxInFlight),
		keys:     map[string]*key{}, aliases: map[string]alias{},
	}
	s.operations = s.table()
	if err := s.prepare(c.Names); err != nil {
		_ = store.Close()
		return nil, err
	}
	s.http = s.newHTTP()
	s.pool = newPool(c.Pairs)
	return s, nil
}

func (s *Server) prepare(names []string) error {
	var err error
	if s.tokenKey, err = s.store.Key("session tokens"); err != nil {
		return fmt.Errorf("%w: %w", ErrStore, err)
	}
	if s.importKey, err = s.store.Key("import tokens"); err != nil {
		return fmt.Errorf("%w: %w", ErrStore, err)
	}
	if s.authority, err = openAuthority(s.store, names, s.now); err != nil {
		if errors.Is(err, ErrConfig) {
			return err
		}
		return fmt.Errorf("%w: %w", ErrStore, err)
	}
	if err := s.load(); err != nil {
		return fmt.Errorf("%w: %w", ErrStore, err)
	}
	return s.purge()
}

func (s *Server) newHTTP() *http.Server {
	return &http.Server{
		Handler:           s,
		TLSConfig:         s.TLSConfig(),
		ReadHeaderTimeout: 10 * time.Second,
		ReadTimeout:       30 * time.Second,
		WriteTimeout:      60 * time.Second,
		IdleTimeout:       2 * time.Minute,
		MaxHeaderBytes:    wire.MaxHeader,
		ErrorLog:          slog.NewLogLogger(s.log.Handler(), slog.LevelDebug),
	}
}

// Serve serves TLS on l, with deadlines on every connection and a bound on
// their number, until Close, and then returns nil.
func (s *Server) Serve(l net.Listener) error {
	err := s.http.ServeTLS(&boundedListener{Listener: l, slots: make(chan struct{}, maxConns)}, "", "")
	if errors.Is(err, http.ErrServerClosed) {
		return nil
	}
	return fmt.Errorf("serving local KMS: %w", err)
}

// errBusy is returned by Close when a request does not end.
var errBusy = errors.New("a request of the local KMS is still running; its directory stays locked until the process ends")

// Close ends Serve and the background work, and waits a few seconds for
// requests that are being worked on. Then the directory is free.
func (s *Server) Close() error {
	var err error
	s.closing.Do(func() {
		err = s.http.Close()
		s.pool.close()
		grace := time.NewTimer(closeGrace)
		defer grace.Stop()
		for range maxInFlight {
			select {
			case s.inFlight <- struct{}{}:
			case <-grace.C:
				// The store stays open: a write must not lose its key.
				err = errors.Join(err, errBusy)
				return
			}
		}
		err = errors.Join(err, s.store.Close())
	})
	return err
}

// boundedListener stops accepting while too many connections are open.
type boundedListener struct {
	net.Listener
	slots chan struct{}
}

func (l *boundedListener) Accept() (net.Conn, error) {
	l.slots <- struct{}{}
	c, err := l.Listener.Accept()
	if err != nil {
		<-l.slots
		return nil, err
	}
	return &boundedConn{Conn: c, release: sync.OnceFunc(func() { <-l.slots })}, nil
}

type boundedConn struct {
	net.Conn
	release func()
}

func (c *boundedConn) Close() error {
	defer c.release()
	return c.Conn.Close()
}
