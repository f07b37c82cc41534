package v1

import (
	"bytes"
	"context"
	"crypto/rand"
	"crypto/sha256"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"time"

	"github.com/coder/websocket"

	"github.com/cape-functions/cape/client/internal/link"
	"github.com/cape-functions/cape/core/attest"
	"github.com/cape-functions/cape/core/attest/nitro"
	"github.com/cape-functions/cape/core/seal"
	"github.com/cape-functions/cape/core/wire"
)

// documentPatience bounds the wait for the document: the enclave may have to load the
// function first.
const documentPatience = wire.HandlerStart + 2*time.Minute

// Route says what a session is for, and so what its document must hold.
type Route int

// The routes.
const (
	Run Route = iota + 1
	Deploy
	Test
	Key
)

// Claims is the user data of a verified document.
type Claims struct {
	Function     []byte // SHA-256 of the function's zip; Run alone
	KeyPolicy    []byte // SHA-256 of the KMS key policy
	CapeKey      []byte // PKIX DER; Key alone
	SignatureKey []byte // PKCS#1 DER; Run and Test
}

// ParseClaims reads the user data of a document for the route. Errors match
// attest.ErrField.
func ParseClaims(route Route, doc nitro.Document) (Claims, error) {
	var u wire.UserDataV1
	if err := json.Unmarshal(doc.UserData, &u); err != nil {
		return Claims{}, fmt.Errorf("%w: the user data is not that of a v1 session", attest.ErrField)
	}
	c := Claims{Function: u.FuncChecksum, KeyPolicy: u.KeyChecksum, CapeKey: u.Key, SignatureKey: u.SignatureKey}
	switch {
	case route != Key && len(c.KeyPolicy) != sha256.Size:
		return Claims{}, fmt.Errorf("%w: key_checksum is not a SHA-256: the enclave has no key that it inspected", attest.ErrField)
	case route == Run && len(c.Function) != sha256.Size:
		return Claims{}, fmt.Errorf("%w: func_checksum is not a SHA-256", attest.ErrField)
	case (route == Run || route == Test) && len(doc.PublicKey) != seal.PublicKeySize:
		return Claims{}, fmt.Errorf("%w: there is no session key of %d bytes", attest.ErrField, seal.PublicKeySize)
	case route == Key && len(c.CapeKey) == 0:
		return Claims{}, fmt.Errorf("%w: there is no Cape Key", attest.ErrField)
	}
	if len(c.KeyPolicy) == 0 {
		c.KeyPolicy = nil
	}
	if route == Run || route == Test {
		if _, err := x509.ParsePKCS1PublicKey(c.SignatureKey); err != nil {
			return Claims{}, fmt.Errorf("%w: there is no key that signs checksums", attest.ErrField)
		}
	}
	return c, nil
}

// Session is an open session whose document was accepted.
type Session struct {
	conn     conn
	route    Route
	nonce    []byte
	evidence *attest.Evidence
	claims   Claims
	turn     chan struct{} // holds a token while nobody uses the connection
	dead     error         // why the connection cannot be used again; guarded by turn
	function []byte        // checksum that results must carry
}

// Open starts a session on ws: it sends a fresh nonce and hands the document to judge,
// which must verify it for that nonce. It takes ws over, also when it fails.
func Open(ctx context.Context, ws *websocket.Conn, route Route,
	judge func(ctx context.Context, document, nonce []byte) (*attest.Evidence, error)) (*Session, error) {
	s := &Session{conn: conn{ws}, route: route, turn: make(chan struct{}, 1)}
	if err := s.open(ctx, judge); err != nil {
		_ = ws.CloseNow()
		return nil, err
	}
	s.turn <- struct{}{}
	return s, nil
}

func (s *Session) open(ctx context.Context, judge func(context.Context, []byte, []byte) (*attest.Evidence, error)) error {
	// The nonce is printable, as that of the published clients, and 144 bits strong.
	random := make([]byte, 18)
	rand.Read(random)
	s.nonce = []byte(base64.StdEncoding.EncodeToString(random))
	start, err := wire.EncodeV1(wire.StartV1{Nonce: s.nonce})
	if err != nil {
		return err
	}
	if err := s.conn.send(ctx, websocket.MessageText, start, nil); err != nil {
		return fmt.Errorf("sending the nonce: %w", err)
	}
	var answer wire.AttestationV1
	wait, touch, stop := watch(ctx, documentPatience)
	defer stop()
	// Base64 in JSON, and room for what a later server may add.
	if err := s.conn.message(wait, 4*nitro.MaxDocument, touch, &answer); err != nil {
		return fmt.Errorf("waiting for the attestation document: %w", err)
	}
	if answer.Type != wire.TypeAttestation {
		return fmt.Errorf("%w: it sent %.40q where the attestation document is due", link.ErrProtocol, answer.Type)
	}
	if s.evidence, err = judge(ctx, answer.Message, s.nonce); err != nil {
		return err
	}
	if s.claims, err = ParseClaims(s.route, s.evidence.Document); err != nil {
		return err
	}
	s.function = s.claims.Function
	return nil
}

// Evidence returns the accepted document and how it was checked.
func (s *Session) Evidence() *attest.Evidence { return s.evidence }

// Claims returns the document's user data.
func (s *Session) Claims() Claims { return s.claims }

// Nonce returns what the document answers.
func (s *Session) Nonce() []byte { return bytes.Clone(s.nonce) }

// Result is one verified answer.
type Result struct {
	Output    []byte
	Checksums seal.Checksums
	Signature []byte
}

// take waits for the connection; its error is why it cannot be used.
func (s *Session) take(ctx context.Context) (release func(*error), err error) {
	select {
	case <-ctx.Done():
		return nil, context.Cause(ctx)
	case <-s.turn:
	}
	if s.dead != nil {
		s.turn <- struct{}{}
		return nil, s.dead
	}
	return func(err *error) {
		if *err != nil && !isRemote(*err) {
			s.dead = link.ErrClosed
			_ = s.conn.ws.CloseNow()
		}
		s.turn <- struct{}{}
	}, nil
}

// SendFunction sends the zip of a Test session; results must carry its checksum.
func (s *Session) SendFunction(ctx context.Context, zip []byte, progress func(done, total int64)) (err error) {
	release, err := s.take(ctx)
	if err != nil {
		return err
	}
	defer release(&err)
	frame, err := seal.SealV1(s.evidence.Document.PublicKey, zip)
	if err != nil {
		return err
	}
	sum := sha256.Sum256(zip)
	s.function = sum[:]
	return s.conn.send(ctx, websocket.MessageBinary, frame, progress)
}

// Invoke sends one input and returns its verified result. Callers take turns. After
// an error that the server reported (link.RemoteError) the session may go on; after
// any other it is over.
func (s *Session) Invoke(ctx context.Context, input []byte, limit int64) (result *Result, err error) {
	if int64(len(input)) > wire.MaxInput {
		return nil, fmt.Errorf("%w: the input has %d bytes, %d are allowed", link.ErrTooLarge, len(input), int64(wire.MaxInput))
	}
	release, err := s.take(ctx)
	if err != nil {
		return nil, err
	}
	defer release(&err)
	frame, err := seal.SealV1(s.evidence.Document.PublicKey, input)
	if err != nil {
		return nil, err
	}
	var answer wire.ResultV1
	send := func(ctx context.Context) error {
		err := s.conn.send(ctx, websocket.MessageBinary, frame, nil)
		frame = nil // inputs are large, and so is what comes next
		return err
	}
	read := func(ctx context.Context, touch func(time.Duration)) error {
		return s.conn.result(ctx, limit, touch, &answer)
	}
	if err := exchange(ctx, send, read); err != nil {
		return nil, err
	}
	return s.verify(input, &answer)
}

// verify compares everything the answer says with what was attested, sent and received.
func (s *Session) verify(input []byte, a *wire.ResultV1) (*Result, error) {
	if a.Type != wire.TypeResult {
		return nil, fmt.Errorf("%w: it sent %.40q where a result is due", link.ErrProtocol, a.Type)
	}
	var c seal.Checksums
	for _, part := range []struct {
		to   *[32]byte
		from []byte
		name string
	}{{&c.Input, a.Checksums.Input, "input"}, {&c.Function, a.Checksums.Function, "function"}, {&c.Output, a.Checksums.Output, "output"}} {
		if len(part.from) != sha256.Size {
			return nil, fmt.Errorf("%w: the result carries none for the %s", link.ErrChecksum, part.name)
		}
		*part.to = [32]byte(part.from)
	}
	if err := seal.VerifyChecksums(s.claims.SignatureKey, c, a.SignedChecksums); err != nil {
		return nil, fmt.Errorf("%w: %w", link.ErrChecksum, err)
	}
	switch {
	case !bytes.Equal(c.Function[:], s.function):
		return nil, fmt.Errorf("%w: the result is of another function: %x, not %x", link.ErrChecksum, c.Function, s.function)
	case c.Output != sha256.Sum256(a.Message):
		return nil, fmt.Errorf("%w: the output is not the one that was signed", link.ErrChecksum)
	case c.Input != sha256.Sum256(input):
		return nil, fmt.Errorf("%w: the enclave signed another input than the one sent", link.ErrChecksum)
	}
	return &Result{Output: a.Message, Checksums: c, Signature: a.SignedChecksums}, nil
}

// Deploy sends name and body, a raw Cape envelope, and returns the new function's id.
func (s *Session) Deploy(ctx context.Context, name string, public bool, body []byte, progress func(done, total int64)) (id string, err error) {
	release, err := s.take(ctx)
	if err != nil {
		return "", err
	}
	defer release(&err)
	head, err := wire.EncodeV1(wire.DeployV1{Name: name, Public: public})
	if err != nil {
		return "", err
	}
	var answer wire.DeployedV1
	send := func(ctx context.Context) error {
		if err := s.conn.send(ctx, websocket.MessageText, head, nil); err != nil {
			return err
		}
		return s.conn.send(ctx, websocket.MessageBinary, body, progress)
	}
	read := func(ctx context.Context, touch func(time.Duration)) error {
		return s.conn.message(ctx, wire.MaxTextFrame, touch, &answer)
	}
	if err := exchange(ctx, send, read); err != nil {
		return "", err
	}
	if !wire.ValidID(answer.ID) {
		return "", fmt.Errorf("%w: it gave the function an id of a strange form", link.ErrProtocol)
	}
	return answer.ID, nil
}

// Close ends the session with status 1000. It may be called twice, and while another
// goroutine uses the session, which then gets link.ErrClosed.
func (s *Session) Close() {
	select {
	case <-s.turn:
		if s.dead == nil {
			s.dead = link.ErrClosed
			s.conn.close()
		}
		s.turn <- struct{}{}
	default:
		_ = s.conn.ws.CloseNow()
	}
}
