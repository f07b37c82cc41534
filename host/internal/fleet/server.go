package fleet

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"io"
	"log/slog"
	"net/http"
	"strings"
	"time"

	"github.com/cape-functions/cape/core/wire"
	"github.com/cape-functions/cape/host/internal/api/reply"
	"github.com/cape-functions/cape/host/internal/kek"
)

// bodyWait bounds the arrival of a small body.
const bodyWait = 10 * time.Second

// Rows is where workers are remembered; *store.Store is one.
type Rows interface {
	PutWorker(ctx context.Context, name string, body []byte) error
	DropWorker(ctx context.Context, name string) error
}

// Server answers workers. Every field must be set.
type Server struct {
	Token Token
	Rows  Rows
	// Boot is what enclaves boot with, routes aside, or kek.ErrNone.
	Boot func(ctx context.Context) (wire.Boot, error)
	// Trust is what a key is to be made for.
	Trust wire.Trust
	// Born remembers the platform's first key, or returns kek.ErrExists.
	Born func(ctx context.Context, b wire.Birth) error
	// Store answers the store link (link.Store).
	Store http.Handler
	Log   *slog.Logger
}

// Handler returns the routes of spec/worker-api.md.
func (s Server) Handler() http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("PUT /v1/workers/{name}", s.put)
	mux.HandleFunc("DELETE /v1/workers/{name}", s.remove)
	mux.HandleFunc("GET /v1/boot", s.boot)
	mux.HandleFunc("GET /v1/trust", s.trust)
	mux.HandleFunc("POST /v1/birth", s.birth)
	mux.Handle("/v1/store/", http.StripPrefix("/v1/store", s.Store))
	return s.authenticated(mux)
}

func (s Server) authenticated(h http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		scheme, token, _ := strings.Cut(r.Header.Get("Authorization"), " ")
		if !strings.EqualFold(scheme, "Bearer") || !s.Token.Is(token) {
			s.Log.Warn("a worker without the token was refused", "from", r.RemoteAddr)
			w.Header().Set("WWW-Authenticate", "Bearer")
			reply.Error(w, wire.CodeUnauthorized, "this is not the worker token", "give the worker the file that the control plane has")
			return
		}
		h.ServeHTTP(w, r)
	})
}

// body reads a small body within bodyWait.
func body(w http.ResponseWriter, r *http.Request, limit int) ([]byte, bool) {
	_ = http.NewResponseController(w).SetReadDeadline(time.Now().Add(bodyWait)) // a server without deadlines is a test's
	b, err := io.ReadAll(io.LimitReader(r.Body, int64(limit)+1))
	if err != nil || len(b) > limit {
		reply.Error(w, wire.CodeInvalidRequest, "the body did not arrive whole, or is too large", "")
		return nil, false
	}
	return b, true
}

func (s Server) put(w http.ResponseWriter, r *http.Request) {
	b, ok := body(w, r, maxWorker)
	if !ok {
		return
	}
	var said Worker
	d := json.NewDecoder(bytes.NewReader(b))
	d.DisallowUnknownFields()
	err := d.Decode(&said)
	if err == nil {
		err = said.Validate()
	}
	if err == nil && said.Name != r.PathValue("name") {
		err = ErrWorker
	}
	if err != nil {
		s.Log.Warn("a worker was refused", "name", r.PathValue("name"), "error", err)
		reply.Error(w, wire.CodeInvalidRequest, "what the worker says of itself cannot be used", "see the control plane's log; are both of one version?")
		return
	}
	if err := s.Rows.PutWorker(r.Context(), said.Name, b); err != nil {
		s.fail(w, err)
		return
	}
	w.WriteHeader(http.StatusNoContent)
}

func (s Server) remove(w http.ResponseWriter, r *http.Request) {
	if err := s.Rows.DropWorker(r.Context(), r.PathValue("name")); err != nil {
		s.fail(w, err)
		return
	}
	w.WriteHeader(http.StatusNoContent)
}

func (s Server) boot(w http.ResponseWriter, r *http.Request) {
	m, err := s.Boot(r.Context())
	if err != nil {
		s.fail(w, err)
		return
	}
	s.cbor(w, m)
}

func (s Server) trust(w http.ResponseWriter, _ *http.Request) { s.cbor(w, s.Trust) }

func (s Server) birth(w http.ResponseWriter, r *http.Request) {
	b, ok := body(w, r, maxBirth)
	if !ok {
		return
	}
	var birth wire.Birth
	if err := wire.Unmarshal(b, maxBirth, &birth); err != nil || !strings.HasPrefix(birth.KMS, "arn:") || len(birth.Policy) == 0 || len(birth.Document) == 0 {
		reply.Error(w, wire.CodeInvalidRequest, "the birth document is malformed", "")
		return
	}
	if err := s.Born(r.Context(), birth); err != nil {
		s.fail(w, err)
		return
	}
	w.WriteHeader(http.StatusCreated)
}

func (s Server) cbor(w http.ResponseWriter, v any) {
	b, err := wire.Marshal(v)
	if err != nil {
		s.fail(w, err)
		return
	}
	w.Header().Set("Content-Type", "application/cbor")
	_, _ = w.Write(b) // the worker left
}

func (s Server) fail(w http.ResponseWriter, err error) {
	switch {
	case errors.Is(err, kek.ErrNone):
		reply.Error(w, wire.CodeNotFound, "the platform has no key yet", "caped kms init")
	case errors.Is(err, kek.ErrExists):
		reply.ErrorStatus(w, http.StatusConflict, wire.CodeInvalidRequest, "the platform has a key already", "there is never a second one")
	default:
		s.Log.Error("worker link", "error", err)
		reply.Error(w, wire.CodeUnavailable, "the control plane's store does not answer", "see its log")
	}
}
