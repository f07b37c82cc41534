// Package api is the control plane's HTTP API: the plain routes that list and
// delete functions, and the routes of sessions, which it hands to an enclave
// without looking inside. It holds no plaintext and decides nothing that the
// enclave would believe.
package api

import (
	"context"
	"encoding/hex"
	"errors"
	"log/slog"
	"maps"
	"net/http"
	"path"
	"strconv"
	"strings"
	"time"

	"github.com/cape-functions/cape/core/wire"
	"github.com/cape-functions/cape/host/internal/api/reply"
	"github.com/cape-functions/cape/host/internal/identity"
	"github.com/cape-functions/cape/host/internal/store"
)

// Bounds of a listing.
const (
	defaultPage = 50
	maxPage     = 1000
	maxOffset   = 1_000_000
)

// callTime bounds one plain call.
const callTime = 20 * time.Second

// Functions is what the API needs of a store; *store.Store is one.
type Functions interface {
	Functions(ctx context.Context, owner wire.Subject, limit, offset int) ([]*store.Function, error)
	Function(ctx context.Context, id string) (*store.Function, error)
	DeleteFunction(ctx context.Context, owner wire.Subject, id string) error
	Ping(ctx context.Context) error
}

// Config says what the API serves. Every field must be set, but KeySet.
type Config struct {
	Functions Functions
	// Verify checks a bearer token: identity.ErrExpired, or another error.
	Verify func(token string) (*identity.Claims, error)
	// KeySet returns the issuer's public keys (RFC 7517), Issuer its name; nil when
	// the issuer is somebody else, who publishes them.
	KeySet func() ([]byte, error)
	Issuer string
	// Releases says what the enclaves run; empty while none does.
	Releases func() []wire.Release
	// Sessions gets the routes that an enclave serves.
	Sessions http.Handler
	Log      *slog.Logger
}

type server struct{ Config }

// sessions are the routes that an enclave serves.
var sessions = []string{
	"GET /v1/run/{id}", "GET /v1/run/{user}/{name}", "GET /v1/deploy", "GET /v1/test", "GET /v1/key", "GET /v1/user/{username}/key",
}

// plain are the routes that this process serves itself.
func (s *server) plain() map[string]http.HandlerFunc {
	return map[string]http.HandlerFunc{
		"GET /healthz": func(w http.ResponseWriter, _ *http.Request) {
			reply.JSON(w, http.StatusOK, map[string]string{"status": "ok"})
		},
		"GET /readyz":               s.ready,
		"GET /v1/releases":          s.releases,
		"GET /v1/functions":         s.authenticated(s.list),
		"GET /v1/functions/{id}":    s.authenticated(s.show),
		"DELETE /v1/functions/{id}": s.authenticated(s.remove),
	}
}

// issuing are the routes of a platform that is its own issuer.
func (s *server) issuing() map[string]http.HandlerFunc {
	return map[string]http.HandlerFunc{
		"GET /.well-known/openid-configuration": s.discovery,
		"GET /.well-known/jwks.json":            s.keySet,
	}
}

// New returns the API's handler. spec/control-api.yaml describes it.
func New(cfg Config) http.Handler {
	s := &server{cfg}
	mux := http.NewServeMux()
	routes := s.plain()
	if cfg.KeySet != nil {
		maps.Copy(routes, s.issuing())
	}
	for pattern, h := range routes {
		mux.HandleFunc(pattern, s.bounded(h))
	}
	for _, pattern := range sessions {
		mux.Handle(pattern, cfg.Sessions)
	}
	return s.logged(notFoundAsJSON(mux))
}

// bounded gives plain calls a deadline. None of them reads a body.
func (s *server) bounded(h http.HandlerFunc) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		ctx, cancel := context.WithTimeout(r.Context(), callTime)
		defer cancel()
		h(w, r.WithContext(ctx))
	}
}

// logged writes a line for each call: never a query, a header or a body, and of
// the path only the route, since names and ids are the callers' business.
func (s *server) logged(h http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		start := time.Now()
		rec := &recorder{ResponseWriter: w, status: http.StatusSwitchingProtocols}
		h.ServeHTTP(rec, r)
		s.Log.Info("call", "method", r.Method, "route", r.Pattern, "status", rec.status, "ms", time.Since(start).Milliseconds())
	})
}

// recorder remembers the status; a hijacked connection has none.
type recorder struct {
	http.ResponseWriter
	status int
}

func (r *recorder) WriteHeader(status int) {
	r.status = status
	r.ResponseWriter.WriteHeader(status)
}

// Unwrap lets http.ResponseController find the connection.
func (r *recorder) Unwrap() http.ResponseWriter { return r.ResponseWriter }

// notFoundAsJSON answers what the mux refuses in the form of every other error.
func notFoundAsJSON(mux *http.ServeMux) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if path.Clean(r.URL.Path) != r.URL.Path { // the mux would redirect
			noRoute(w)
			return
		}
		if _, pattern := mux.Handler(r); pattern != "" {
			mux.ServeHTTP(w, r)
			return
		}
		probe := &recorder{ResponseWriter: discard{http.Header{}}, status: http.StatusOK}
		mux.ServeHTTP(probe, r)
		if probe.status == http.StatusMethodNotAllowed {
			w.Header().Set("Allow", probe.Header().Get("Allow"))
			reply.ErrorStatus(w, probe.status, wire.CodeInvalidRequest, "this route does not take "+strconv.Quote(r.Method), "use one of: "+probe.Header().Get("Allow"))
			return
		}
		noRoute(w)
	})
}

func noRoute(w http.ResponseWriter) {
	reply.Error(w, wire.CodeNotFound, "there is no such route", "see the list of routes in the documentation")
}

type discard struct{ h http.Header }

func (d discard) Header() http.Header         { return d.h }
func (d discard) Write(b []byte) (int, error) { return len(b), nil }
func (d discard) WriteHeader(int)             {}

type caller func(http.ResponseWriter, *http.Request, *identity.Claims)

// authenticated runs h for the owner of a valid bearer token.
func (s *server) authenticated(h caller) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		scheme, token, _ := strings.Cut(r.Header.Get("Authorization"), " ")
		if !strings.EqualFold(scheme, "Bearer") || token == "" {
			w.Header().Set("WWW-Authenticate", "Bearer")
			reply.Error(w, wire.CodeUnauthorized, "this route needs a token", "send an Authorization header: Bearer TOKEN")
			return
		}
		claims, err := s.Verify(strings.TrimSpace(token))
		switch {
		case errors.Is(err, identity.ErrExpired):
			w.Header().Set("WWW-Authenticate", `Bearer error="invalid_token"`)
			reply.Error(w, wire.CodeUnauthorized, "token is expired", "get a fresh token from the platform's identity provider")
		case err != nil:
			w.Header().Set("WWW-Authenticate", `Bearer error="invalid_token"`)
			reply.Error(w, wire.CodeUnauthorized, "token is not valid", "get a token of the platform's identity provider")
		default:
			h(w, r, claims)
		}
	}
}

func (s *server) list(w http.ResponseWriter, r *http.Request, c *identity.Claims) {
	limit, err1 := number(r, "limit", defaultPage, 1, maxPage)
	offset, err2 := number(r, "offset", 0, 0, maxOffset)
	if err := errors.Join(err1, err2); err != nil {
		reply.Error(w, wire.CodeInvalidRequest, "limit or offset is out of range", "limit: 1 to 1000; offset: 0 to 1000000")
		return
	}
	found, err := s.Functions.Functions(r.Context(), c.Owner, limit, offset)
	if err != nil {
		s.fail(w, err)
		return
	}
	out := make([]wire.Function, 0, len(found))
	for _, f := range found {
		out = append(out, describe(f))
	}
	reply.JSON(w, http.StatusOK, out)
}

var errRange = errors.New("out of range")

func number(r *http.Request, name string, preset, low, high int) (int, error) {
	text := r.URL.Query().Get(name)
	if text == "" {
		return preset, nil
	}
	n, err := strconv.Atoi(text)
	if err != nil || n < low || n > high {
		return 0, errRange
	}
	return n, nil
}

func describe(f *store.Function) wire.Function {
	return wire.Function{ID: f.ID, Name: f.Name, CreatedAt: f.CreatedAt.UTC(), Checksum: hex.EncodeToString(f.Checksum), Public: f.Public, Size: int64(f.Size)}
}

func (s *server) show(w http.ResponseWriter, r *http.Request, c *identity.Claims) {
	f, err := s.Functions.Function(r.Context(), r.PathValue("id"))
	if err == nil && f.Owner != c.Owner {
		err = store.ErrNotFound
	}
	if err != nil {
		s.fail(w, err)
		return
	}
	reply.JSON(w, http.StatusOK, describe(f))
}

func (s *server) remove(w http.ResponseWriter, r *http.Request, c *identity.Claims) {
	if err := s.Functions.DeleteFunction(r.Context(), c.Owner, r.PathValue("id")); err != nil {
		s.fail(w, err)
		return
	}
	reply.JSON(w, http.StatusOK, map[string]string{"id": r.PathValue("id")})
}

func (s *server) fail(w http.ResponseWriter, err error) {
	if errors.Is(err, store.ErrNotFound) {
		reply.Error(w, wire.CodeNotFound, "there is no such function", "cape list shows yours")
		return
	}
	s.Log.Error("store", "error", err)
	reply.Error(w, wire.CodeUnavailable, "the server's store does not answer", "try again in a moment")
}

func (s *server) releases(w http.ResponseWriter, _ *http.Request) {
	all := s.Releases()
	if all == nil {
		all = []wire.Release{}
	}
	reply.JSON(w, http.StatusOK, all)
}

func (s *server) ready(w http.ResponseWriter, r *http.Request) {
	if err := s.Functions.Ping(r.Context()); err != nil || len(s.Releases()) == 0 {
		reply.Error(w, wire.CodeUnavailable, "not ready", "try again in a moment")
		return
	}
	reply.JSON(w, http.StatusOK, map[string]string{"status": "ready"})
}

func (s *server) keySet(w http.ResponseWriter, _ *http.Request) {
	set, err := s.KeySet()
	if err != nil {
		s.fail(w, err)
		return
	}
	w.Header().Set("Content-Type", "application/jwk-set+json")
	_, _ = w.Write(set) // the client left
}

func (s *server) discovery(w http.ResponseWriter, r *http.Request) {
	scheme := "http://"
	if r.TLS != nil {
		scheme = "https://"
	}
	reply.JSON(w, http.StatusOK, map[string]any{
		"issuer":                                s.Issuer,
		"jwks_uri":                              scheme + r.Host + "/.well-known/jwks.json",
		"id_token_signing_alg_values_supported": []string{"RS256"},
	})
}
