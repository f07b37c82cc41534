package session

import (
	"context"
	"crypto/rand"
	"crypto/sha256"
	"encoding/json"
	"iter"
	"net/http"
	"slices"
	"strings"

	"github.com/cape-functions/cape/core/wire"
	"github.com/cape-functions/cape/enclave/internal/boot/event"
	"github.com/cape-functions/cape/enclave/internal/vault"
)

// Names of routes in the log.
const (
	routeRun     = "run"
	routeDeploy  = "deploy"
	routeTest    = "test"
	routeKey     = "key"
	routeUserKey = "user-key"
	routeVouch   = "evidence"
)

// visit is one request while it is served.
type visit struct {
	s      *Server
	route  string
	policy []byte // text of the KEK's policy
	guest  *guest
	tenant *tenant // whom it was admitted for, or the strangers
}

// admit makes of a guest a session of h.
func (v *visit) admit(h vault.Holder) *fault {
	t, f := v.s.seats.take(h)
	if f == nil {
		v.tenant = t
		v.guest.leave()
	}
	return f
}

// policySum is what v1 documents say of the policy.
func (v *visit) policySum() []byte {
	sum := sha256.Sum256(v.policy)
	return sum[:]
}

type visitor func(context.Context, *visit, http.ResponseWriter, *http.Request)

func (s *Server) handler() http.Handler {
	mux := http.NewServeMux()
	run := s.serve(routeRun, s.socket(s.run, s.runV2))
	mux.Handle("GET /v1/run/{id}", run)
	mux.Handle("GET /v1/run/{user}/{name}", run)
	mux.Handle("GET /v1/deploy", s.serve(routeDeploy, s.socket(s.managed(true, s.deployV1), s.deployV2)))
	mux.Handle("GET /v1/test", s.serve(routeTest, s.socket(s.managed(false, s.testV1), s.testV2)))
	mux.Handle("GET /v1/key", s.serve(routeKey, s.socket(s.managed(false, s.keyV1), s.keyV2)))
	mux.Handle("GET /v1/user/{user}/key", s.serve(routeUserKey, s.userKey))
	mux.HandleFunc("GET /healthz", s.health)
	mux.HandleFunc("/", func(w http.ResponseWriter, _ *http.Request) {
		writeFault(w, newFault(wire.CodeNotFound, "there is no such route", "see the API's documentation"))
	})
	return mux
}

// serve gives a request a context that ends with the era. Until it is admitted it is one of the handshakes.
func (s *Server) serve(route string, h visitor) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		era, policy := s.current()
		if era == nil {
			writeFault(w, unavailable())
			return
		}
		v := &visit{s: s, route: route, policy: policy, guest: guestOf(r), tenant: &s.strangers}
		if !s.lobby.fits(s.cfg.MaxHandshakes) {
			v.refuse(w, crowded())
			return
		}
		s.sessions.Add(1)
		defer s.sessions.Done()
		ctx, cancel := context.WithCancel(r.Context())
		defer cancel()
		defer context.AfterFunc(era, cancel)()
		defer func() {
			if v.tenant != &s.strangers {
				s.seats.give(v.tenant)
			}
		}()
		defer v.recover()
		h(ctx, v, w, r)
	})
}

// socket serves a WebSocket in the version that the client offers. Who offers both gets v2: it
// is the host that could have taken it out of an offer.
func (s *Server) socket(v1 visitor, v2 func(context.Context, *exchange, *http.Request) error) visitor {
	return func(ctx context.Context, v *visit, w http.ResponseWriter, r *http.Request) {
		switch {
		case !isUpgrade(r):
			v.refuse(w, newFault(wire.CodeInvalidRequest, "this route is a WebSocket", "connect with a Cape client"))
		case offersV2(r.Header):
			v.converse(ctx, w, r, wire.SubprotocolV2, func(ctx context.Context, c *channel) error { return s.sealed(ctx, c, r, v2) })
		default:
			v1(ctx, v, w, r)
		}
	}
}

// recover ends the enclave when a goroutine panicked: what it left behind may be wrong for others. It says nothing of why: a
// panic's text may hold anything. It must be deferred directly.
func (v *visit) recover() {
	if p := recover(); p != nil {
		v.s.log.Error(event.Panicked, event.Route, v.route)
		v.s.breaking.Do(func() { close(v.s.broken) })
	}
}

// health takes no place: an enclave that is busy is healthy.
func (s *Server) health(w http.ResponseWriter, _ *http.Request) {
	if era, _ := s.current(); era == nil {
		writeFault(w, unavailable())
		return
	}
	w.Header().Set("Content-Type", "text/plain; charset=utf-8")
	_, _ = w.Write([]byte("ok\n")) // who asked may be gone
}

// userKey answers with a document that holds the user's Cape Key. There is no nonce of the
// caller's, and nothing but the host's word for whose key it is: published clients ask so.
func (s *Server) userKey(ctx context.Context, v *visit, w http.ResponseWriter, r *http.Request) {
	w.Header().Set("Access-Control-Allow-Origin", "*")
	key, err := s.cfg.Vault.KeyOfUser(ctx, r.PathValue("user"), true)
	if err != nil {
		f := faultOf(err)
		if f.code == wire.CodeNotFound {
			f = newFault(wire.CodeNotFound, "this user has no Cape Key yet", "a user's key is made when they first use: cape key")
		}
		v.refuse(w, f)
		return
	}
	nonce := make([]byte, 16)
	rand.Read(nonce)
	doc, _, err := s.attestV1(nonce, wire.UserDataV1{Key: key.SPKI})
	if err != nil {
		v.refuse(w, faultOf(err))
		return
	}
	w.Header().Set("Content-Type", "application/json")
	// A client that is gone has nobody to tell.
	_ = json.NewEncoder(w).Encode(map[string][]byte{"attestation_document": doc})
}

func (v *visit) refuse(w http.ResponseWriter, f *fault) {
	v.s.log.Info(event.Refused, event.Route, v.route, event.Code, f.code)
	writeFault(w, f)
}

// offers are the values of every Sec-WebSocket-Protocol line: the original's command line
// sends two lines, browsers send one.
func offers(h http.Header) iter.Seq[string] {
	return func(yield func(string) bool) {
		for _, line := range h.Values("Sec-WebSocket-Protocol") {
			for value := range strings.SplitSeq(line, ",") {
				if value = strings.TrimSpace(value); value != "" && !yield(value) {
					return
				}
			}
		}
	}
}

func offersV2(h http.Header) bool {
	return slices.Contains(slices.Collect(offers(h)), wire.SubprotocolV2)
}

// protocols is what a WebSocket request of v1 offers.
type protocols struct {
	chosen string
	token  string
}

// parseProtocols takes the value that names no protocol for the token.
func parseProtocols(h http.Header) (protocols, *fault) {
	var p protocols
	for value := range offers(h) {
		switch {
		case value == wire.SubprotocolRuntime || value == wire.SubprotocolFunction:
			if p.chosen == "" {
				p.chosen = value
			}
		case p.token != "":
			return p, newFault(wire.CodeInvalidRequest, "more than one token in Sec-WebSocket-Protocol", "send the protocol's name and one token")
		default:
			p.token = value
		}
	}
	switch {
	case p.chosen == "":
		return p, newFault(wire.CodeInvalidRequest, "Sec-WebSocket-Protocol does not offer "+wire.SubprotocolRuntime, "send it together with a token")
	case p.token == "":
		return p, newFault(wire.CodeUnauthorized, "Sec-WebSocket-Protocol holds no token", "send one of the platform's identity provider")
	}
	return p, nil
}
