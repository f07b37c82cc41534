package testkit

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"net/http"

	"github.com/coder/websocket"

	"github.com/cape-functions/cape/core/account"
	"github.com/cape-functions/cape/core/seal"
	"github.com/cape-functions/cape/core/wire"
)

// SealedLies are those of protocol v2. Some are a host's, who carries frames and cannot open
// them; others are told by something that plays the enclave.
type SealedLies struct {
	// Hello replaces the hello on its way to the enclave.
	Hello func([]byte) []byte
	// Config, Policy, Birth and TLS stand in for the enclave's own.
	Config, Policy, Birth, TLS []byte
	// Claim changes the document's user data; KeyClaim that of a Cape Key's document.
	Claim    func(*wire.SessionClaim)
	KeyClaim func(*wire.KeyClaim)
	// Attest replaces the answer to hello on its way to the client.
	Attest func([]byte) []byte
	// Accepted, Result and Deployed change what the enclave says.
	Accepted func(*wire.Accepted)
	Result   func(*wire.Result)
	Deployed func(*wire.Deployed)
	// Records replaces a record before it is sealed: by none, another, or several.
	Records func(record []byte) [][]byte
	// Frames replaces a sealed frame on its way to the client.
	Frames func(frame []byte) [][]byte
	// Grants: false grants no more credit than there is to begin with.
	NoCredit bool
}

// sealedSession serves one v2 connection, in one goroutine.
type sealedSession struct {
	*Server
	ws      *websocket.Conn
	route   string
	channel *seal.Channel
	opened  *seal.Opened
	user    string
	notary  *seal.Notary

	inputs map[uint64]*bytes.Buffer
	begun  map[uint64]*wire.Begin
	ended  []uint64
	credit map[uint64]int64
}

func (s *Server) sealed(w http.ResponseWriter, r *http.Request, route, name string) {
	opts := &websocket.AcceptOptions{Subprotocols: []string{wire.SubprotocolV2}}
	if s.lying().NoSubprotocol {
		opts.Subprotocols = nil
	}
	ws, err := websocket.Accept(w, r, opts)
	if err != nil {
		return
	}
	defer ws.CloseNow()
	ws.SetReadLimit(wire.MaxFrame)
	c := &sealedSession{Server: s, ws: ws, route: route, inputs: map[uint64]*bytes.Buffer{}, begun: map[uint64]*wire.Begin{}, credit: map[uint64]int64{}}
	if err := c.serve(r.Context(), r.URL.Path, name); err != nil && r.Context().Err() == nil {
		c.refuse(r.Context(), err)
	}
	_ = ws.Close(websocket.StatusNormalClosure, "")
}

// refuse says why the session ends, in the form of where it is.
func (c *sealedSession) refuse(ctx context.Context, err error) {
	code := wire.CodeInvalidRequest
	var remote *wire.RemoteError
	if errors.As(err, &remote) {
		code = remote.Code
	}
	if c.channel != nil {
		_ = c.send(ctx, wire.FailureOf(0, code, err.Error())) // the client of a test may be gone
		return
	}
	_ = c.ws.Write(ctx, websocket.MessageBinary, must(wire.EncodeRefusal(code, err.Error())))
}

func (c *sealedSession) serve(ctx context.Context, path, name string) error {
	_, hello, err := c.ws.Read(ctx)
	if err != nil {
		return err
	}
	if lie := c.lying().Sealed.Hello; lie != nil {
		hello = lie(hello)
	}
	h, err := wire.ParseHello(hello)
	if err != nil {
		return err
	}
	if h.Use == wire.UseKey {
		return c.serveKey(ctx, h)
	}
	if err := c.shake(ctx, hello, path); err != nil {
		return err
	}
	if c.user, err = userOfToken(string(c.opened.Token.Reveal())); err != nil {
		return &wire.RemoteError{Code: wire.CodeUnauthorized, Text: err.Error()}
	}
	switch c.route {
	case "run":
		return c.run(ctx, name)
	case "key":
		if c.opened.Acct == nil {
			return &wire.RemoteError{Code: wire.CodeUnauthorized, Text: "there is no account"}
		}
		c.CapeKey(c.opened.Acct.String())
		return c.accept(ctx, &Function{})
	case "test", "deploy":
		return c.take(ctx)
	}
	return &wire.RemoteError{Code: wire.CodeNotFound, Text: "there is no such route"}
}

// shake answers hello and opens what the client sends then.
func (c *sealedSession) shake(ctx context.Context, hello []byte, path string) error {
	r, err := seal.NewResponder(hello, path)
	if err != nil {
		return err
	}
	e, lies := c.evidence(), c.lying()
	data := must(r.Claim(e.Config, e.Policy, e.TLS))
	if lie := lies.Sealed.Claim; lie != nil {
		claim := must(wire.ParseSessionClaim(data))
		lie(claim)
		data = must(wire.Marshal(claim))
	}
	e.Document = c.signed(c.route, r.Nonce(), c.enclave.ReceiptSPKI(), data)
	message, err := r.Attest(wire.Attest{Document: e.Document, Config: e.Config, Policy: e.Policy, Birth: e.Birth})
	if err != nil {
		return err
	}
	if c.notary, err = seal.NewNotary(r, c.enclave.ReceiptKey); err != nil {
		return err
	}
	if lies.Sealed.Attest != nil {
		message = lies.Sealed.Attest(message)
	}
	if err := c.ws.Write(ctx, websocket.MessageBinary, message); err != nil {
		return err
	}
	_, frame, err := c.ws.Read(ctx)
	if err != nil {
		return err
	}
	if c.opened, c.channel, err = r.Open(frame); err == nil {
		c.mu.Lock()
		c.opens++
		c.mu.Unlock()
	}
	return err
}

// Opens returns how many sealed sessions were opened: each gave its token away.
func (s *Server) Opens() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.opens
}

// answer is what stands in an attest of either kind.
type answer struct{ Document, Config, Policy, Birth, TLS []byte }

func (s *Server) evidence() answer {
	lies, e := s.lying().Sealed, s.enclave
	a := answer{Config: e.Config, Policy: e.Policy, Birth: e.Birth, TLS: e.TLS}
	for _, p := range []struct {
		to  *[]byte
		lie []byte
	}{{&a.Config, lies.Config}, {&a.Policy, lies.Policy}, {&a.Birth, lies.Birth}, {&a.TLS, lies.TLS}} {
		if p.lie != nil {
			*p.to = p.lie
		}
	}
	return a
}

// serveKey answers who asks for a Cape Key.
func (c *sealedSession) serveKey(ctx context.Context, h *wire.Hello) error {
	var acct []byte
	if acct = h.Of.Acct; acct == nil {
		c.mu.Lock()
		key := c.accounts[h.Of.User]
		c.mu.Unlock()
		if key == nil {
			return &wire.RemoteError{Code: wire.CodeNotFound, Text: "there is no such user"}
		}
		id := key.ID()
		acct = id[:]
	}
	id := account.ID(acct).String()
	c.mu.Lock()
	known := c.keys[id] != nil
	c.mu.Unlock()
	if !known {
		return &wire.RemoteError{Code: wire.CodeNotFound, Text: "there is no such key"}
	}
	e, lies := c.evidence(), c.lying().Sealed
	spki := publicDER(c.CapeKey(id))
	data := must(seal.KeyClaim(h, acct, spki, e.Config, e.Policy, e.TLS))
	if lies.KeyClaim != nil {
		claim := must(wire.ParseKeyClaim(data))
		lies.KeyClaim(claim)
		data = must(wire.Marshal(claim))
	}
	a := wire.KeyAttest{Document: c.signed("key", h.Nonce, nil, data), Config: e.Config, Policy: e.Policy, Birth: e.Birth, SPKI: spki}
	message := must(a.Encode())
	if lies.Attest != nil {
		message = lies.Attest(message)
	}
	return c.ws.Write(ctx, websocket.MessageBinary, message)
}

// run serves a function that is stored.
func (c *sealedSession) run(ctx context.Context, name string) error {
	f := c.find(name)
	if f == nil || !f.Public && f.User != c.user {
		return &wire.RemoteError{Code: wire.CodeNotFound, Text: "there is no such function, or it is not yours; check the id or the name with: cape list"}
	}
	m := must(wire.ParseManifest(f.Manifest))
	x := c.opened.Expect
	if x.Fn != nil && !bytes.Equal(x.Fn, m.Checksum) || x.Acct != nil && !bytes.Equal(x.Acct, m.Acct) || x.Seq != nil && m.Seq < *x.Seq {
		return &wire.RemoteError{Code: wire.CodeInvalidFunction, Text: "it is not what the caller expects"}
	}
	if err := c.accept(ctx, f); err != nil {
		return err
	}
	for {
		id, err := c.next(ctx)
		if err != nil {
			return err
		}
		if err := c.invoke(ctx, f, id); err != nil {
			return err
		}
	}
}

func (c *sealedSession) accept(ctx context.Context, f *Function) error {
	a := &wire.Accepted{Manifest: f.Manifest, Sig: f.Sig, Key: f.Key, Python: "3.11", Platform: "linux-x86_64", Limits: wire.DefaultLimits()}
	if f.Manifest != nil {
		a.Fn = f.checksum()
	}
	if lie := c.lying().Sealed.Accepted; lie != nil {
		lie(a)
	}
	return c.send(ctx, a)
}

// take serves a deploy or a test.
func (c *sealedSession) take(ctx context.Context) error {
	if c.opened.Acct == nil {
		return &wire.RemoteError{Code: wire.CodeUnauthorized, Text: "there is no account"}
	}
	if lies := c.lying(); lies.RefuseUpload != nil {
		return lies.RefuseUpload
	}
	if err := c.accept(ctx, &Function{}); err != nil {
		return err
	}
	id, err := c.next(ctx)
	if err != nil {
		return err
	}
	zip := c.inputs[id].Bytes()
	if bytes.Contains([]byte(source(zip)), []byte("syntax error")) {
		return &wire.RemoteError{Code: wire.CodeInvalidFunction, Text: "app.py does not compile: line 1"}
	}
	if c.route == "test" {
		f := &Function{Zip: zip, User: c.user, Handler: handlerOf(zip), Logs: logsOf(zip)}
		if id, err = c.next(ctx); err != nil {
			return err
		}
		return c.invoke(ctx, f, id)
	}
	return c.deployed(ctx, c.begun[id], zip)
}

func (c *sealedSession) deployed(ctx context.Context, b *wire.Begin, zip []byte) error {
	m, err := account.VerifyManifest(b.Manifest, b.Sig, c.opened.Key[:])
	if err != nil {
		return err
	}
	sum := sha256.Sum256(zip)
	if !bytes.Equal(sum[:], m.Checksum) {
		return &wire.RemoteError{Code: wire.CodeInvalidFunction, Text: "it is not what was signed"}
	}
	f := c.Add(Function{User: c.user, Name: m.Name, Public: m.Access == wire.AccessPublic, Zip: zip, Manifest: b.Manifest, Sig: b.Sig, Key: c.opened.Key[:], Logs: logsOf(zip)})
	d := &wire.Deployed{ID: f.ID, Checksum: m.Checksum}
	if lie := c.lying().Sealed.Deployed; lie != nil {
		lie(d)
	}
	return c.send(ctx, d)
}
