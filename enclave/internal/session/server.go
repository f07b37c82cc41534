package session

import (
	"cmp"
	"context"
	"crypto/ed25519"
	"crypto/rsa"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"log"
	"log/slog"
	"net"
	"net/http"
	"sync"
	"time"

	"github.com/cape-functions/cape/core/wire"
	"github.com/cape-functions/cape/enclave/internal/handler"
	"github.com/cape-functions/cape/enclave/internal/nsm"
	"github.com/cape-functions/cape/enclave/internal/token"
	"github.com/cape-functions/cape/enclave/internal/vault"
)

// Attestor is the security module; nsm.Device is one.
type Attestor interface {
	Attest(nsm.Request) ([]byte, error)
}

// Tokens verifies tokens; token.Verifier does.
type Tokens interface {
	Verify(ctx context.Context, raw string) (*token.Claims, error)
}

// Process is a function in its jail; handler.Process is one.
type Process interface {
	Invoke(ctx context.Context, input io.Reader, output io.Writer) error
	Close() error
}

// Functions starts and judges functions.
type Functions interface {
	Start(ctx context.Context, o handler.Options) (Process, error)
	// Check decides whether a zip may be deployed or tested.
	Check(ctx context.Context, zip io.ReaderAt, size int64) error
}

// Timeouts end what makes no progress. Zero values stand for wire's.
type Timeouts struct {
	Handshake, Patience, Idle, Stall, Write, Linger, Tick time.Duration
}

// Config says what a Server serves with.
type Config struct {
	NSM       Attestor
	Tokens    Tokens
	Vault     *vault.Vault
	Functions Functions
	// SigningKey returns what signs v1 checksums, when it is made; ReceiptKey signs v2 receipts. They live as long as
	// the enclave.
	SigningKey func() (*rsa.PrivateKey, error)
	ReceiptKey ed25519.PrivateKey
	// Now is the security module's time, without a request to it.
	Now func() time.Time
	// Config are the exact bytes of wire.Config, Birth is the KEK's birth document.
	Config, Birth []byte
	// TLS returns SHA-256 of the SPKI of the key with which TLS ends in the enclave; asked for
	// connections that came over TLS alone. nil: there is no such listener.
	TLS func() []byte
	// Python and Platform are the interpreter's, in the form of wire.Release.
	Python, Platform string
	Limits           wire.LimitsConfig
	Log              *slog.Logger
	// MaxSessions bounds the sessions at once, MaxHandshakes the connections that are none yet; 0: wire's.
	MaxSessions, MaxHandshakes int
	// Memory bounds the messages of all sessions together, in bytes; 0: AllMessages.
	Memory   int64
	Timeouts Timeouts
}

// Server serves sessions. It answers "unavailable" to everything until Open.
type Server struct {
	cfg        Config
	log        *slog.Logger
	lobby      lobby
	strangers  tenant // of connections that are not admitted
	seats      seats
	receiptDER []byte // SPKI of ReceiptKey's
	routes     http.Handler
	sessions   sync.WaitGroup
	broken     chan struct{} // closed by the first panic
	breaking   sync.Once

	mu     sync.Mutex
	era    context.Context // nil: nothing is served; ends with Suspend
	end    context.CancelFunc
	policy []byte // text of the KEK's policy
}

// New returns a Server that serves nothing yet.
func New(cfg Config) (*Server, error) {
	receiptDER, err := x509.MarshalPKIXPublicKey(cfg.ReceiptKey.Public())
	if err != nil {
		return nil, fmt.Errorf("encoding receipt key: %w", err)
	}
	cfg.MaxSessions = cmp.Or(cfg.MaxSessions, wire.MaxSessions)
	cfg.MaxHandshakes = cmp.Or(cfg.MaxHandshakes, wire.MaxHandshakes)
	all := &budget{free: cmp.Or(cfg.Memory, AllMessages)}
	t := &cfg.Timeouts
	t.Handshake = cmp.Or(t.Handshake, wire.Handshake)
	t.Patience = cmp.Or(t.Patience, wire.HandshakePatience)
	t.Idle = cmp.Or(t.Idle, wire.IdleSession)
	t.Stall = cmp.Or(t.Stall, wire.BodyStall)
	t.Write = cmp.Or(t.Write, wire.BodyStall)
	t.Linger = cmp.Or(t.Linger, 2*time.Second)
	t.Tick = cmp.Or(t.Tick, time.Second)
	s := &Server{cfg: cfg, log: cfg.Log, broken: make(chan struct{}), lobby: lobby{patience: t.Patience}, strangers: tenant{memory: memory{budget: all}},
		seats:      seats{budget: all, free: cfg.MaxSessions, tenants: make(map[vault.Holder]*tenant)},
		receiptDER: receiptDER}
	s.routes = s.handler()
	return s, nil
}

// Open begins to serve under a KEK that was inspected and has this policy text.
func (s *Server) Open(policy []byte) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.policy = policy
	if s.era == nil {
		s.era, s.end = context.WithCancel(context.Background())
	}
}

// Suspend ends all sessions and answers "unavailable" until the next Open.
func (s *Server) Suspend() {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.era != nil {
		s.end()
		s.era = nil
	}
}

// current returns the context of everything served now, or nil.
func (s *Server) current() (era context.Context, policy []byte) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.era, s.policy
}

// ErrPanic: a goroutine of a session panicked.
var ErrPanic = errors.New("internal fault")

// Serve accepts connections until ctx ends or something panics (ErrPanic), then ends every session and waits for them, at
// most grace. It closes l.
func (s *Server) Serve(ctx context.Context, l net.Listener, grace time.Duration) error {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	go func() {
		select {
		case <-s.broken:
			cancel(ErrPanic)
		case <-ctx.Done():
		}
	}()
	err := s.listen(ctx, s.doorman(l))
	if ctx.Err() == nil {
		return err
	}
	ended := make(chan struct{})
	go func() {
		s.sessions.Wait()
		close(ended)
	}()
	select {
	case <-ended:
	case <-time.After(grace):
	}
	if errors.Is(context.Cause(ctx), ErrPanic) {
		return ErrPanic
	}
	return nil
}

// ServeTLS accepts connections that speak TLS, beside Serve, until ctx ends or l fails. It
// closes l; Serve waits for its sessions.
func (s *Server) ServeTLS(ctx context.Context, l net.Listener, cfg *tls.Config) error {
	return s.listen(ctx, tls.NewListener(s.doorman(l), cfg))
}

// doorman limits a listener to twice the handshakes: about as many are being told that there is no room.
func (s *Server) doorman(l net.Listener) net.Listener {
	return &doorman{l, &s.lobby, 2 * s.cfg.MaxHandshakes}
}

// listen serves the routes.
func (s *Server) listen(ctx context.Context, l net.Listener) error {
	srv := s.http(s.routes)
	stop := context.AfterFunc(ctx, func() {
		s.Suspend()
		srv.Close()
	})
	defer stop()
	return srv.Serve(l)
}

func (s *Server) http(h http.Handler) *http.Server {
	srv := &http.Server{
		Handler:           h,
		ConnContext:       withGuest,
		ReadHeaderTimeout: s.cfg.Timeouts.Handshake,
		ReadTimeout:       s.cfg.Timeouts.Stall,
		WriteTimeout:      2 * wire.LinkCall,
		MaxHeaderBytes:    wire.MaxHeader,
		ErrorLog:          log.New(io.Discard, "", 0), // its lines hold what clients sent
	}
	srv.SetKeepAlivesEnabled(false) // one request a connection: the host pipes them through
	return srv
}
