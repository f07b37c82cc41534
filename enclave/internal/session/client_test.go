package session_test

import (
	"bytes"
	"crypto/rsa"
	"crypto/x509"
	"encoding/json"
	"errors"
	"net/http"
	"testing"

	"github.com/coder/websocket"

	"github.com/cape-functions/cape/core/attest/nitro"
	"github.com/cape-functions/cape/core/seal"
	"github.com/cape-functions/cape/core/wire"
)

// conn is a client of v1.
type conn struct {
	t  *testing.T
	ws *websocket.Conn
	// of the document
	doc  nitro.Document
	user wire.UserDataV1
}

// dial opens a session, or returns the refusal.
func (f *fixture) dial(route string, protocols ...string) (*conn, *http.Response, wire.ErrorBody) {
	f.t.Helper()
	ws, resp, err := websocket.Dial(f.t.Context(), "ws://"+f.addr+route, &websocket.DialOptions{Subprotocols: protocols})
	if err != nil {
		var body wire.ErrorBody
		if resp != nil {
			_ = json.NewDecoder(resp.Body).Decode(&body)
		}
		return nil, resp, body
	}
	ws.SetReadLimit(-1)
	f.t.Cleanup(func() { ws.CloseNow() })
	return &conn{t: f.t, ws: ws}, resp, wire.ErrorBody{}
}

// enter opens a session and reads the document.
func (f *fixture) enter(route, token string) *conn {
	f.t.Helper()
	c, _, body := f.dial(route, wire.SubprotocolRuntime, token)
	if c == nil {
		f.t.Fatalf("refused: %+v", body)
	}
	c.introduce([]byte("0123456789abcdef"))
	return c
}

func (c *conn) introduce(nonce []byte) {
	c.t.Helper()
	c.send(wire.StartV1{Nonce: nonce})
	var a wire.AttestationV1
	c.receive(&a)
	s, err := nitro.Parse(a.Message)
	if err != nil {
		c.t.Fatal(err)
	}
	c.doc = s.Document
	if !bytes.Equal(c.doc.Nonce, nonce) {
		c.t.Fatalf("nonce %q", c.doc.Nonce)
	}
	if err := json.Unmarshal(c.doc.UserData, &c.user); err != nil {
		c.t.Fatal(err)
	}
}

func (c *conn) send(v any) {
	c.t.Helper()
	frame, err := wire.EncodeV1(v)
	if err != nil {
		c.t.Fatal(err)
	}
	c.write(websocket.MessageText, frame)
}

func (c *conn) write(typ websocket.MessageType, frame []byte) {
	c.t.Helper()
	if err := c.ws.Write(c.t.Context(), typ, frame); err != nil {
		c.t.Fatal(err)
	}
}

func (c *conn) seal(plain []byte) {
	c.t.Helper()
	frame, err := seal.SealV1(c.doc.PublicKey, plain)
	if err != nil {
		c.t.Fatal(err)
	}
	c.write(websocket.MessageBinary, frame)
}

// read returns the next message, or the enclave's error.
func (c *conn) read(v any) error {
	c.t.Helper()
	typ, frame, err := c.ws.Read(c.t.Context())
	if err != nil {
		return err
	}
	if typ != websocket.MessageText {
		c.t.Fatal("a binary frame came")
	}
	return wire.DecodeV1(frame, v)
}

func (c *conn) receive(v any) {
	c.t.Helper()
	if err := c.read(v); err != nil {
		c.t.Fatal(err)
	}
}

// result reads a result and checks its checksums and their signature.
func (c *conn) result(input []byte) []byte {
	c.t.Helper()
	var r wire.ResultV1
	c.receive(&r)
	return c.check(r, input)
}

// refused reads an error of that code.
func (c *conn) refused(code string) *wire.RemoteError {
	c.t.Helper()
	var v json.RawMessage
	err := c.read(&v)
	var remote *wire.RemoteError
	if !errors.As(err, &remote) {
		c.t.Fatalf("got %v %s, want the error %s", err, v, code)
	}
	if remote.Code != code {
		c.t.Fatalf("got %s: %s, want %s", remote.Code, remote.Text, code)
	}
	return remote
}

// closed waits for the end of the connection and returns the code it was closed with.
func (c *conn) closed() websocket.StatusCode {
	c.t.Helper()
	for {
		if _, _, err := c.ws.Read(c.t.Context()); err != nil {
			return websocket.CloseStatus(err)
		}
	}
}

// capeKey fetches the public key of a token's user.
func (f *fixture) capeKey(token string) *rsa.PublicKey {
	f.t.Helper()
	c := f.enter("/v1/key", token)
	key, err := x509.ParsePKIXPublicKey(c.user.Key)
	if err != nil {
		f.t.Fatal(err)
	}
	pub, ok := key.(*rsa.PublicKey)
	if !ok {
		f.t.Fatal("not an RSA key")
	}
	if code := c.closed(); code != websocket.StatusNormalClosure {
		f.t.Errorf("closed with %d", code)
	}
	return pub
}
