package session

import (
	"context"
	"net"
	"net/http"

	"github.com/coder/websocket"

	"github.com/cape-functions/cape/core/seal"
	"github.com/cape-functions/cape/core/wire"
)

// maxVouched bounds the connections at once before the KEK was inspected.
const maxVouched = 8

// Vouch answers hellos of v2 with a document and an empty key policy, which every client
// refuses, and says that nothing is served: it shows what has booted while the KEK cannot be
// inspected. It returns when ctx ends, with every connection closed, and closes l.
func (s *Server) Vouch(ctx context.Context, l net.Listener) {
	srv := s.http(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if !isUpgrade(r) || !offersV2(r.Header) {
			writeFault(w, unavailable())
			return
		}
		s.sessions.Add(1)
		defer s.sessions.Done()
		v := &visit{s: s, route: routeVouch, guest: guestOf(r), tenant: &s.strangers}
		defer v.recover()
		v.converse(ctx, w, r, wire.SubprotocolV2, func(_ context.Context, c *channel) error { return s.vouch(c, r) })
	}))
	stop := context.AfterFunc(ctx, func() { srv.Close() })
	defer stop()
	_ = srv.Serve(&doorman{l, &s.lobby, maxVouched}) // it ends with ctx, or nobody is shown anything
	s.sessions.Wait()
}

func (s *Server) vouch(c *channel, r *http.Request) error {
	c.report = c.refuse
	b, err := c.next(websocket.MessageBinary, wire.MaxHello)
	if err != nil {
		return err
	}
	defer b.release()
	responder, err := seal.NewResponder(b.bytes(), r.URL.Path)
	if err != nil {
		return err
	}
	if err := s.attest(c, responder, s.evidence(nil, r)); err != nil {
		return err
	}
	f := unavailable()
	return fatal(f.code, f.text, f.hint)
}
