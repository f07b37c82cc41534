package testkit

import (
	"archive/zip"
	"bytes"
	"context"
	"crypto/sha256"
	"crypto/x509"
	"errors"
	"io"
	"net/http"
	"strings"

	"github.com/coder/websocket"

	"github.com/cape-functions/cape/core/envelope"
	"github.com/cape-functions/cape/core/seal"
	"github.com/cape-functions/cape/core/wire"
)

// session serves one WebSocket.
type session struct {
	*Server
	ws    *websocket.Conn
	route string
	user  string
	key   *seal.SessionKey
}

func (s *Server) session(w http.ResponseWriter, r *http.Request, route, user, name string) {
	opts := &websocket.AcceptOptions{Subprotocols: []string{wire.SubprotocolRuntime}}
	if s.lying().NoSubprotocol {
		opts.Subprotocols = nil
	}
	ws, err := websocket.Accept(w, r, opts)
	if err != nil {
		return
	}
	defer ws.CloseNow()
	ws.SetReadLimit(1 << 30)
	key, err := seal.NewSessionKey()
	if err != nil {
		panic(err)
	}
	c := &session{Server: s, ws: ws, route: route, user: user, key: key}
	if err := c.serve(r.Context(), name); err != nil && r.Context().Err() == nil {
		code := wire.CodeInternal
		var remote *wire.RemoteError
		if errors.As(err, &remote) {
			code = remote.Code
		}
		_ = ws.Write(r.Context(), websocket.MessageText, wire.EncodeErrorV1(code, err.Error()))
	}
	_ = ws.Close(websocket.StatusNormalClosure, "")
}

func (c *session) serve(ctx context.Context, name string) error {
	_, frame, err := c.ws.Read(ctx)
	if err != nil {
		return err
	}
	var start wire.StartV1
	if err := wire.DecodeV1(frame, &start); err != nil {
		return err
	}
	signer := x509.MarshalPKCS1PublicKey(&c.signing.PublicKey)
	u := wire.UserDataV1{KeyChecksum: c.KeyPolicy[:]}
	f := &Function{}
	switch c.route {
	case "run":
		if f = c.find(name); f == nil || !f.Public && f.User != c.user {
			return &wire.RemoteError{Code: wire.CodeNotFound, Text: "there is no such function"}
		}
		u.FuncChecksum, u.SignatureKey = f.checksum(), signer
	case "test":
		u.SignatureKey = signer
	case "key":
		u = wire.UserDataV1{Key: publicDER(c.CapeKey(c.user))}
	}
	if err := c.send(ctx, wire.AttestationV1{Type: wire.TypeAttestation, Message: c.document(c.route, start.Nonce, c.key.Public(), u)}); err != nil {
		return err
	}
	switch c.route {
	case "deploy":
		return c.deploy(ctx)
	case "test":
		zip, err := c.input(ctx)
		if err != nil {
			return err
		}
		f = &Function{Zip: zip, User: c.user, Handler: handlerOf(zip)}
		return c.invoke(ctx, f)
	case "run":
		for {
			if err := c.invoke(ctx, f); err != nil {
				return err
			}
		}
	}
	_, _, err = c.ws.Read(ctx)
	return err
}

func (c *session) send(ctx context.Context, message any) error {
	frame, err := wire.EncodeV1(message)
	if err != nil {
		return err
	}
	if lie := c.lying().Frame; lie != nil {
		frame = lie(c.route, frame)
	}
	return c.ws.Write(ctx, websocket.MessageText, frame)
}

func (c *session) input(ctx context.Context) ([]byte, error) {
	_, frame, err := c.ws.Read(ctx)
	if err != nil {
		return nil, err
	}
	return c.key.Open(frame)
}

func (c *session) invoke(ctx context.Context, f *Function) error {
	input, err := c.input(ctx)
	if err != nil {
		return err
	}
	if c.lying().Hang {
		<-ctx.Done()
		return ctx.Err()
	}
	in := sha256.Sum256(input) // as it was sent
	if envelope.IsSealed(input) {
		if input, err = envelope.OpenOld(c.CapeKey(f.User), input, false); err != nil {
			return err
		}
	}
	output, err := f.Handler(input)
	if err != nil {
		text := wire.EncodeErrorV1(wire.CodeFunctionError, err.Error())
		return c.ws.Write(ctx, websocket.MessageText, text)
	}
	out := sha256.Sum256(output)
	r := wire.ResultV1{Type: wire.TypeResult, Message: output, Checksums: wire.ChecksumsV1{Input: in[:], Function: f.checksum(), Output: out[:]}}
	lies := c.lying()
	if lies.Sign != nil {
		lies.Sign(&r)
	}
	sums := seal.Checksums{Input: [32]byte(r.Checksums.Input), Function: [32]byte(r.Checksums.Function), Output: [32]byte(r.Checksums.Output)}
	if r.SignedChecksums, err = seal.SignChecksums(c.signing, sums); err != nil {
		return err
	}
	if lies.Result != nil {
		lies.Result(&r)
	}
	return c.send(ctx, r)
}

func (c *session) deploy(ctx context.Context) error {
	_, frame, err := c.ws.Read(ctx)
	if err != nil {
		return err
	}
	var head wire.DeployV1
	if err := wire.DecodeV1(frame, &head); err != nil {
		return err
	}
	if lies := c.lying(); lies.DropUpload {
		return c.ws.CloseNow()
	} else if lies.RefuseUpload != nil {
		return lies.RefuseUpload
	}
	_, body, err := c.ws.Read(ctx)
	if err != nil {
		return err
	}
	zip, err := envelope.OpenOld(c.CapeKey(c.user), body, true)
	if err != nil {
		return err
	}
	if strings.Contains(source(zip), "syntax error") {
		return &wire.RemoteError{Code: wire.CodeInvalidFunction, Text: "app.py does not compile: line 1"}
	}
	f := c.Add(Function{User: c.user, Name: head.Name, Public: head.Public, Zip: zip})
	return c.send(ctx, wire.DeployedV1{ID: f.ID})
}

// handlerOf returns what stands in for app.py: a function that says "# upper" returns
// its input in upper case, one that says "# raise" fails; all others echo.
func handlerOf(zip []byte) func([]byte) ([]byte, error) {
	switch text := source(zip); {
	case strings.Contains(text, "# upper"):
		return func(input []byte) ([]byte, error) { return bytes.ToUpper(input), nil }
	case strings.Contains(text, "# raise"):
		return func([]byte) ([]byte, error) { return nil, errors.New("ValueError: no") }
	}
	return Echo
}

// source returns the text of the function's app.py, empty if there is none.
func source(data []byte) string {
	z, err := zip.NewReader(bytes.NewReader(data), int64(len(data)))
	if err != nil {
		return ""
	}
	for _, f := range z.File {
		if !strings.HasSuffix(f.Name, "app.py") {
			continue
		}
		r, err := f.Open()
		if err != nil {
			return ""
		}
		defer r.Close()
		text, err := io.ReadAll(io.LimitReader(r, 1<<20))
		if err != nil {
			return ""
		}
		return string(text)
	}
	return ""
}
