package localkms

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

	"github.com/cape-functions/cape/host/internal/localkms/sigv4"
)

const (
	targetPrefix = "TrentService."
	jsonType     = "application/x-amz-json-1.1"
	// readTime bounds reading a body, queueTime waiting for a place,
	// callTime one operation, writeTime sending its answer.
	readTime  = 15 * time.Second
	queueTime = 5 * time.Second
	callTime  = 30 * time.Second
	writeTime = 15 * time.Second
)

// call is one authenticated request.
type call struct {
	ctx       context.Context
	s         *Server
	operation string
	who       caller
	now       time.Time
	secure    bool
	recipient *recipient
	alias     string // alias by which the request named its key
	key       string // id of the key, for the log
}

// operation does one API operation: JSON in, a value for JSON out.
type operation func(c *call, body []byte) (any, error)

// op adapts a function of typed input and output.
func op[I, O any](f func(*call, *I) (*O, error)) operation {
	return func(c *call, body []byte) (any, error) {
		in := new(I)
		if err := decode(body, in); err != nil {
			return nil, err
		}
		out, err := f(c, in)
		if err != nil {
			return nil, err
		}
		return out, nil
	}
}

// nothing is the output of operations that answer with an empty body.
type nothing struct{}

// decode reads the parameters. Unknown ones are refused: ignoring a parameter
// that restricts something would be worse than an error.
func decode(body []byte, v any) error {
	if len(bytes.TrimSpace(body)) == 0 {
		return nil
	}
	d := json.NewDecoder(bytes.NewReader(body))
	d.DisallowUnknownFields()
	if err := d.Decode(v); err != nil {
		var kind *json.UnmarshalTypeError
		switch {
		case errors.As(err, &kind):
			return fail(codeSerialization, "parameter %s has a value of the wrong type", kind.Field)
		case strings.HasPrefix(err.Error(), "json: unknown field "):
			return fail(codeSerialization, "this KMS does not know the parameter %s", strings.TrimPrefix(err.Error(), "json: unknown field "))
		}
		return &apiError{code: codeSerialization, message: "the request body is not JSON of the expected form", cause: err}
	}
	if _, err := d.Token(); !errors.Is(err, io.EOF) {
		return fail(codeSerialization, "there is text after the JSON of the request body")
	}
	return nil
}

// ServeHTTP implements [http.Handler].
func (s *Server) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	// The body is read before a place is taken: a slow sender holds up nobody.
	body, err := readBody(w, r)
	if err != nil {
		s.answerError(w, r, nil, err)
		return
	}
	queue := time.NewTimer(queueTime)
	defer queue.Stop()
	select {
	case s.inFlight <- struct{}{}:
		defer func() { <-s.inFlight }()
	case <-queue.C:
		s.answerError(w, r, nil, fail(codeThrottling, "the local KMS is busy; try again"))
		return
	case <-r.Context().Done():
		return
	}
	s.serve(w, r, body)
}

// serve authenticates a request, runs its operation and answers.
func (s *Server) serve(w http.ResponseWriter, r *http.Request, body []byte) {
	ctx, cancel := context.WithTimeout(r.Context(), callTime)
	defer cancel()
	c, err := s.authenticate(r, body)
	if err != nil {
		s.answerError(w, r, nil, err)
		return
	}
	c.ctx = ctx
	if !isKMS(r) {
		s.serveSTS(w, r, c, body)
		return
	}
	run := s.operations[c.operation]
	if run == nil {
		s.answerError(w, r, c, fail(codeUnknownOperation, "this KMS does not have the operation %q", c.operation))
		return
	}
	out, err := run(c, body)
	if err != nil {
		s.answerError(w, r, c, err)
		return
	}
	if _, empty := out.(*nothing); empty {
		s.answer(w, http.StatusOK, jsonType, nil)
	} else if text, err := json.Marshal(out); err != nil {
		s.answerError(w, r, c, internal(err))
		return
	} else {
		s.answer(w, http.StatusOK, jsonType, text)
	}
	s.record(c, nil)
}

func isKMS(r *http.Request) bool { return r.Header.Get("X-Amz-Target") != "" }

// readBody reads the whole body within its limit and time.
func readBody(w http.ResponseWriter, r *http.Request) ([]byte, error) {
	if r.Method != http.MethodPost {
		return nil, fail(codeUnknownOperation, "requests are sent with POST, not %s", r.Method)
	}
	// Not every ResponseWriter has deadlines: those of tests do not.
	deadline := http.NewResponseController(w)
	_ = deadline.SetReadDeadline(time.Now().Add(readTime))
	body, err := io.ReadAll(http.MaxBytesReader(w, r.Body, maxBody))
	_ = deadline.SetReadDeadline(time.Time{})
	var large *http.MaxBytesError
	if errors.As(err, &large) {
		return nil, fail(codeTooLarge, "the request body has more than %d bytes", maxBody)
	}
	if err != nil {
		return nil, &apiError{code: codeSerialization, message: "the request body could not be read to its end", cause: err}
	}
	return body, nil
}

// authenticate verifies the signature and says who calls what.
func (s *Server) authenticate(r *http.Request, body []byte) (*call, error) {
	signed, err := sigv4.Parse(r)
	if err != nil {
		return nil, err
	}
	token, err := s.openToken(signed.Token, signed.AccessKeyID)
	if err != nil {
		return nil, &apiError{code: codeUnrecognized, message: "the security token included in the request is invalid: it was not minted by this KMS", cause: err}
	}
	who, ok := newCaller(token.Principal)
	if !ok {
		return nil, fail(codeUnrecognized, "the security token included in the request names no principal")
	}
	c := &call{s: s, who: who, now: s.now(), secure: r.TLS != nil, operation: "GetCallerIdentity"}
	service := "sts"
	if isKMS(r) {
		service = "kms"
		c.operation, ok = strings.CutPrefix(r.Header.Get("X-Amz-Target"), targetPrefix)
		if !ok || len(c.operation) > 64 {
			return nil, fail(codeUnknownOperation, "X-Amz-Target must begin with %s", targetPrefix)
		}
	}
	if err := signed.Verify(token.Secret, body, s.region, service, c.now); err != nil {
		return nil, err
	}
	if !token.Expires.After(c.now) {
		return nil, fail(codeExpiredToken, "the security token included in the request is expired")
	}
	return c, nil
}

func (s *Server) answer(w http.ResponseWriter, status int, kind string, body []byte) {
	h := w.Header()
	h.Set("Content-Type", kind)
	h.Set("X-Amzn-Requestid", newKeyID(false))
	h.Set("Cache-Control", "no-store")
	_ = http.NewResponseController(w).SetWriteDeadline(time.Now().Add(writeTime))
	w.WriteHeader(status)
	// A caller that went away is no concern of the others.
	_, _ = w.Write(body)
}

// answerError sends an error in the form of the service that was asked.
func (s *Server) answerError(w http.ResponseWriter, r *http.Request, c *call, err error) {
	e := asAPIError(err)
	if isKMS(r) || r.Method != http.MethodPost {
		body, marshal := json.Marshal(map[string]string{"__type": e.code, "message": e.message})
		if marshal != nil { // strings always encode
			body = []byte(`{"__type":"` + codeInternal + `"}`)
		}
		w.Header().Set("X-Amzn-Errortype", e.code)
		s.answer(w, e.status(), jsonType, body)
	} else {
		s.answerSTSError(w, e)
	}
	s.record(c, e)
}

// record writes one line for a call. Parameters and results never stand in it.
func (s *Server) record(c *call, e *apiError) {
	level, attrs := slog.LevelInfo, []any{}
	if c != nil {
		attrs = append(attrs, "action", c.operation, "principal", c.who.identity())
		if c.key != "" {
			attrs = append(attrs, "key", c.key)
		}
	}
	if e == nil {
		s.log.Info("kms call", append(attrs, "outcome", "ok")...)
		return
	}
	attrs = append(attrs, "outcome", e.code)
	if e.code == codeInternal {
		level = slog.LevelError
		if e.cause != nil {
			attrs = append(attrs, "cause", e.cause.Error())
		}
	}
	s.log.Log(context.Background(), level, "kms call", attrs...)
}
