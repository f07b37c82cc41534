package link

import (
	"context"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"strconv"
	"time"

	"github.com/cape-functions/cape/core/wire"
	"github.com/cape-functions/cape/host/internal/api/reply"
	"github.com/cape-functions/cape/host/internal/store"
)

// Records is what the store link serves; *store.Store is one.
type Records interface {
	PutFunction(ctx context.Context, head wire.StoredFunction, body io.Reader) (*store.Function, error)
	Function(ctx context.Context, id string) (*store.Function, error)
	FunctionByName(ctx context.Context, username, name string) (*store.Function, error)
	Body(ctx context.Context, f *store.Function) (io.ReadCloser, error)
	Key(ctx context.Context, owner wire.Subject, acct []byte) (wire.StoredKey, error)
	KeyOfUser(ctx context.Context, username string, account bool) (wire.StoredKey, error)
	PutKey(ctx context.Context, k wire.StoredKey) (wire.StoredKey, bool, error)
}

// ErrNoIssuer is returned by Store.KeySet for an issuer that is not this host's.
var ErrNoIssuer = errors.New("no such issuer")

// Store answers the store link. Every exported field must be set.
type Store struct {
	Records Records
	// KeySet returns the signed key set of an issuer as a compact JWS, or ErrNoIssuer.
	KeySet func(iss string) (string, error)
	Log    *slog.Logger

	stall time.Duration // zero: wire.BodyStall
}

// Handler returns the link's routes.
func (s Store) Handler() http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("GET /v1/functions/{id}", s.getByID)
	mux.HandleFunc("GET /v1/names/{user}/{name}", s.getByName)
	mux.HandleFunc("PUT /v1/functions/{id}", s.putFunction)
	mux.HandleFunc("GET /v1/keys", s.getKey)
	mux.HandleFunc("GET /v1/users/{user}/key", s.getUserKey)
	mux.HandleFunc("PUT /v1/keys", s.putKey)
	mux.HandleFunc("GET /v1/jwks", s.getKeySet)
	return mux
}

func (s Store) getByID(w http.ResponseWriter, r *http.Request) {
	id := r.PathValue("id")
	if !wire.ValidID(id) {
		s.fail(w, r, store.ErrNotFound)
		return
	}
	f, err := s.Records.Function(r.Context(), id)
	if err != nil {
		s.fail(w, r, err)
		return
	}
	s.sendFunction(w, r, f)
}

func (s Store) getByName(w http.ResponseWriter, r *http.Request) {
	user, name := r.PathValue("user"), r.PathValue("name")
	if !wire.ValidUsername(user) || !wire.ValidFunctionName(name) {
		s.fail(w, r, store.ErrNotFound)
		return
	}
	f, err := s.Records.FunctionByName(r.Context(), user, name)
	if err != nil {
		s.fail(w, r, err)
		return
	}
	s.sendFunction(w, r, f)
}

func (s Store) sendFunction(w http.ResponseWriter, r *http.Request, f *store.Function) {
	head, err := wire.Marshal(f.Head())
	if err != nil || len(head) > wire.MaxRecord {
		s.fail(w, r, fmt.Errorf("encoding head of %d bytes: %w", len(head), err))
		return
	}
	body, err := s.Records.Body(r.Context(), f)
	if err != nil {
		s.fail(w, r, err)
		return
	}
	defer body.Close()
	stall := newStall(w, s.stall)
	defer stall.done()
	w.Header().Set("Content-Type", "application/octet-stream")
	w.Header().Set("Content-Length", strconv.FormatInt(4+int64(len(head))+f.Stored, 10))
	out := stall.writer(w)
	_, err = out.Write(append(binary.BigEndian.AppendUint32(nil, uint32(len(head))), head...))
	if err == nil {
		_, err = io.CopyBuffer(out, struct{ io.Reader }{body}, make([]byte, 64<<10))
	}
	if err != nil && r.Context().Err() == nil {
		s.Log.Warn("function was not sent whole", "function", f.ID, "err", err)
	}
}

func (s Store) putFunction(w http.ResponseWriter, r *http.Request) {
	stall := newStall(w, s.stall)
	defer stall.done()
	body := stall.reader(r.Body)
	head, err := readHead(body)
	if err == nil && head.ID != r.PathValue("id") {
		err = fmt.Errorf("%w: the head names another function", store.ErrInvalid)
	}
	if err == nil {
		_, err = s.Records.PutFunction(r.Context(), head, body)
	}
	if err != nil {
		// A sender that is still writing would take the closed connection for the
		// answer, so what is left of a body of allowed size is read first.
		if !errors.Is(err, store.ErrTooLarge) {
			_, _ = io.CopyN(io.Discard, body, store.MaxBody)
		}
		s.fail(w, r, err)
		return
	}
	w.WriteHeader(http.StatusCreated)
}

func readHead(r io.Reader) (wire.StoredFunction, error) {
	var head wire.StoredFunction
	var size [4]byte
	if _, err := io.ReadFull(r, size[:]); err != nil {
		return head, fmt.Errorf("%w: no head: %w", store.ErrInvalid, err)
	}
	n := binary.BigEndian.Uint32(size[:])
	if n > wire.MaxRecord {
		return head, fmt.Errorf("%w: head of %d bytes, at most %d allowed", store.ErrInvalid, n, wire.MaxRecord)
	}
	data := make([]byte, n)
	if _, err := io.ReadFull(r, data); err != nil {
		return head, fmt.Errorf("%w: head is cut short: %w", store.ErrInvalid, err)
	}
	if err := wire.Unmarshal(data, wire.MaxRecord, &head); err != nil {
		return head, fmt.Errorf("%w: %w", store.ErrInvalid, err)
	}
	return head, nil
}

func (s Store) getKey(w http.ResponseWriter, r *http.Request) {
	q := r.URL.Query()
	var acct []byte
	if q.Has("acct") {
		var err error
		if acct, err = hex.DecodeString(q.Get("acct")); err != nil || len(acct) != 32 {
			s.fail(w, r, store.ErrNotFound)
			return
		}
	}
	k, err := s.Records.Key(r.Context(), wire.Subject{Iss: q.Get("iss"), Sub: q.Get("sub")}, acct)
	s.sendKey(w, r, http.StatusOK, k, err)
}

func (s Store) getUserKey(w http.ResponseWriter, r *http.Request) {
	k, err := s.Records.KeyOfUser(r.Context(), r.PathValue("user"), r.URL.Query().Has("account"))
	s.sendKey(w, r, http.StatusOK, k, err)
}

func (s Store) putKey(w http.ResponseWriter, r *http.Request) {
	stall := newStall(w, s.stall)
	defer stall.done()
	data, err := io.ReadAll(io.LimitReader(stall.reader(r.Body), wire.MaxRecord+1))
	if err != nil {
		s.fail(w, r, fmt.Errorf("%w: %w", store.ErrInvalid, err))
		return
	}
	var k wire.StoredKey
	if err := wire.Unmarshal(data, wire.MaxRecord, &k); err != nil {
		s.fail(w, r, fmt.Errorf("%w: %w", store.ErrInvalid, err))
		return
	}
	first, created, err := s.Records.PutKey(r.Context(), k)
	status := http.StatusOK
	if created {
		status = http.StatusCreated
	}
	s.sendKey(w, r, status, first, err)
}

func (s Store) sendKey(w http.ResponseWriter, r *http.Request, status int, k wire.StoredKey, err error) {
	if err != nil {
		s.fail(w, r, err)
		return
	}
	body, err := wire.Marshal(k)
	if err != nil {
		s.fail(w, r, err)
		return
	}
	writeCBOR(w, status, body)
}

func (s Store) getKeySet(w http.ResponseWriter, r *http.Request) {
	jws, err := s.KeySet(r.URL.Query().Get("iss"))
	if err != nil {
		s.fail(w, r, err)
		return
	}
	w.Header().Set("Content-Type", "application/jose")
	_, _ = io.WriteString(w, jws) // the runtime left
}

// fail answers with the error's class; its text goes to the host's log alone.
func (s Store) fail(w http.ResponseWriter, r *http.Request, err error) {
	switch {
	case errors.Is(err, store.ErrNotFound), errors.Is(err, ErrNoIssuer):
		reply.Error(w, wire.CodeNotFound, "there is none", "")
		return
	case errors.Is(err, store.ErrExists):
		reply.ErrorStatus(w, http.StatusConflict, wire.CodeInvalidRequest, "a function with this id was stored before", "deploy again: every deploy makes a new id")
		return
	case errors.Is(err, store.ErrTooLarge):
		reply.Error(w, wire.CodeTooLarge, "the function is larger than the server stores", "leave out what the function does not need")
		return
	}
	s.Log.Warn("store link", "route", r.Pattern, "err", err)
	switch {
	case errors.Is(err, store.ErrInvalid):
		reply.Error(w, wire.CodeInvalidRequest, "the record was refused", "see the host's log")
	case errors.Is(err, store.ErrFull):
		reply.Error(w, wire.CodeQuota, "the server has no room left", "ask its operator for room, then deploy again")
	default:
		reply.Error(w, wire.CodeUnavailable, "the server's store does not answer", "try again; its operator finds the reason in the log")
	}
}
