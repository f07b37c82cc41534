package session

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"time"

	"github.com/coder/websocket"

	"github.com/cape-functions/cape/core/account"
	"github.com/cape-functions/cape/core/seal"
	"github.com/cape-functions/cape/core/wire"
	"github.com/cape-functions/cape/enclave/internal/nsm"
	"github.com/cape-functions/cape/enclave/internal/vault"
)

// exchange is a v2 session whose handshake is done.
type exchange struct {
	s      *Server
	who    caller
	key    *account.Public // of who.acct
	expect wire.Expect
	c      *channel
	opener *seal.Opener // of what comes
	in     *inbox
	out    *outbox
	notary *seal.Notary
	record []byte // memory for the records of results
}

// sealed holds one v2 session: handshake, admission, and then what the route does. What the
// client sends from its admission on is read all the time, and kept within its credit.
func (s *Server) sealed(ctx context.Context, c *channel, r *http.Request, serve func(context.Context, *exchange, *http.Request) error) error {
	c.report = c.refuse
	b, err := c.next(websocket.MessageBinary, wire.MaxHello)
	if err != nil {
		return err
	}
	hello := append([]byte(nil), b.bytes()...)
	b.release()
	evidence := s.evidence(c.v.policy, r)
	if h, err := wire.ParseHello(hello); err == nil && h.Use == wire.UseKey {
		return s.keyHello(ctx, c, h, r.URL.Path, evidence)
	}
	responder, err := seal.NewResponder(hello, r.URL.Path)
	if err != nil {
		return err
	}
	opened, keys, err := s.open(c, responder, evidence)
	if err != nil {
		return err
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	x := s.exchange(c, opened, keys, cancel)
	if x.notary, err = seal.NewNotary(responder, s.cfg.ReceiptKey); err != nil {
		return err
	}
	defer x.in.clear()
	c.watch.begin()
	defer c.watch.end()
	if err := x.admit(ctx, opened); err != nil {
		return err
	}
	return x.outcome(serve(ctx, x, r))
}

// exchange begins to speak in records.
func (s *Server) exchange(c *channel, o *seal.Opened, keys *seal.Channel, cancel context.CancelFunc) *exchange {
	first, next := wire.KindInput, wire.KindInput
	switch c.v.route {
	case routeDeploy:
		first, next = wire.KindFunction, ""
	case routeTest:
		first = wire.KindFunction
	}
	x := &exchange{s: s, c: c, opener: keys.In, expect: o.Expect, key: o.Key, who: caller{acct: o.Acct},
		out: &outbox{c: c, sealer: keys.Out}, in: newInbox(c.watch, cancel, first, next)}
	x.in.grant = func(id, n uint64) error { return x.out.send(&wire.Window{ID: id, Bytes: n}) }
	c.report = func(f *fault) error { return x.out.send(wire.FailureOf(0, f.code, f.line())) }
	return x
}

// refuse answers what is no session yet; everybody on the way can read it.
func (c *channel) refuse(f *fault) error {
	frame, err := wire.EncodeRefusal(f.code, f.line())
	if err != nil {
		return fmt.Errorf("encoding refusal: %w", err)
	}
	return c.write(websocket.MessageBinary, frame)
}

// evidence is what every document of v2 vouches for.
type evidence struct{ policy, tls []byte }

func (s *Server) evidence(policy []byte, r *http.Request) evidence {
	e := evidence{policy: policy}
	if r.TLS != nil && s.cfg.TLS != nil {
		e.tls = s.cfg.TLS()
	}
	return e
}

// skew is how far this machine's clock is ahead of the security module's.
func (s *Server) skew() int64 { return time.Since(s.cfg.Now()).Milliseconds() }

// attest answers a hello.
func (s *Server) attest(c *channel, r *seal.Responder, e evidence) error {
	claim, err := r.Claim(s.cfg.Config, e.policy, e.tls)
	if err != nil {
		return err
	}
	doc, err := s.cfg.NSM.Attest(nsm.Request{Nonce: r.Nonce(), UserData: claim, PublicKey: s.receiptDER})
	if err != nil {
		return fmt.Errorf("attesting: %w", err)
	}
	message, err := r.Attest(wire.Attest{Document: doc, Config: s.cfg.Config, Policy: e.policy, Birth: s.cfg.Birth, SkewMS: s.skew()})
	if err != nil {
		return fmt.Errorf("attesting: %w", err)
	}
	return c.write(websocket.MessageBinary, message)
}

// open attests and opens the one open frame of a connection.
func (s *Server) open(c *channel, r *seal.Responder, e evidence) (*seal.Opened, *seal.Channel, error) {
	if err := s.attest(c, r, e); err != nil {
		return nil, nil, err
	}
	c.watch.expect(s.cfg.Timeouts.Handshake)
	b, err := c.next(websocket.MessageBinary, wire.MaxOpen)
	if err != nil {
		return nil, nil, err
	}
	defer b.release()
	return r.Open(b.bytes())
}

// admit verifies what the caller says about itself. Nothing was fetched for it before. Who shows
// no token is admitted when a function is found that it owns: account keys cost nothing.
func (x *exchange) admit(ctx context.Context, o *seal.Opened) error {
	defer o.Token.Wipe()
	if o.Grant != nil {
		return fatal(wire.CodeUnauthorized, "this enclave takes no grants", "use a token, or the owner's account key")
	}
	if o.Token.Len() > 0 {
		claims, f := x.s.authenticate(ctx, string(o.Token.Reveal()))
		if f != nil {
			return f
		}
		x.who.claims = claims
		return x.sit(vault.LegacyUser(claims.Subject))
	}
	return nil
}

// sit takes a place for h and begins to read.
func (x *exchange) sit(h vault.Holder) error {
	v := x.c.v
	if f := v.admit(h); f != nil {
		return f
	}
	x.who.tenant, x.in.mem = v.tenant, &v.tenant.memory
	go func() {
		defer x.in.fail(errGone)
		defer v.recover()
		x.in.fill(x.c, x.opener)
	}()
	return nil
}

// outcome is the error of a session that ended with err: the reader's, if that came first.
func (x *exchange) outcome(err error) error {
	var t told
	if cause := x.in.cause(); err != nil && cause != nil && !errors.As(err, &t) {
		return cause
	}
	return err
}

// keyHello answers with a document for a Cape Key. It is public, and made by nobody's asking.
func (s *Server) keyHello(ctx context.Context, c *channel, h *wire.Hello, path string, e evidence) error {
	if h.Route != path || c.v.route != routeKey {
		return seal.ErrRoute
	}
	c.watch.begin()
	defer c.watch.end()
	key, err := s.keyOf(ctx, h.Of)
	if err != nil {
		return err
	}
	var acct []byte
	if !key.Holder.Legacy() {
		acct = key.Holder.Acct[:]
	}
	claim, err := seal.KeyClaim(h, acct, key.SPKI, s.cfg.Config, e.policy, e.tls)
	if err != nil {
		return err
	}
	doc, err := s.cfg.NSM.Attest(nsm.Request{Nonce: h.Nonce, UserData: claim})
	if err != nil {
		return fmt.Errorf("attesting: %w", err)
	}
	answer := wire.KeyAttest{Document: doc, Config: s.cfg.Config, Policy: e.policy, Birth: s.cfg.Birth, SkewMS: s.skew(), SPKI: key.SPKI}
	message, err := answer.Encode()
	if err != nil {
		return fmt.Errorf("attesting: %w", err)
	}
	return c.write(websocket.MessageBinary, message)
}
