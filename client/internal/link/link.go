package link

import (
	"bytes"
	"context"
	"crypto/sha256"
	"crypto/tls"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"regexp"

	"github.com/coder/websocket"

	"github.com/cape-functions/cape/core/wire"
)

// Link is one server. It is safe for concurrent use.
type Link struct {
	// Base is the server's URL, http or https, its path without a slash at the end.
	Base *url.URL
	// Transport carries the requests; it must not speak HTTP/2, which knows no Upgrade.
	Transport http.RoundTripper
	// Token returns the caller's token.
	Token func(context.Context) (string, error)
	// RedirectHosts are further hosts that a redirect may lead to.
	RedirectHosts []string
	// UserAgent names the program.
	UserAgent string
}

// tokenForm is that of anything that can stand in Sec-WebSocket-Protocol: a JWT does.
var tokenForm = regexp.MustCompile(`^[A-Za-z0-9._~+/=-]+$`)

// CallerToken returns the caller's token, of a form that can be sent. Errors match ErrToken.
func (l *Link) CallerToken(ctx context.Context) (string, error) {
	if l.Token == nil {
		return "", fmt.Errorf("%w: none was given", ErrToken)
	}
	t, err := l.Token(ctx)
	if err != nil {
		return "", fmt.Errorf("%w: %w", ErrToken, err)
	}
	if len(t) > wire.MaxToken || !tokenForm.MatchString(t) {
		return "", fmt.Errorf("%w: what was given does not have the form of one", ErrToken)
	}
	return t, nil
}

func (l *Link) url(segments ...string) *url.URL { return l.Base.JoinPath(segments...) }

// Socket is an open WebSocket.
type Socket struct {
	*websocket.Conn
	// PeerKey is the SHA-256 of the SPKI of the key that the other end of TLS holds; nil
	// without TLS.
	PeerKey []byte
	cork    *corkable
}

// Cork holds back what is written until Uncork sends it at once.
func (s *Socket) Cork() { s.cork.Cork() }

// Uncork sends what was held back.
func (s *Socket) Uncork() error { return s.cork.Uncork() }

// CloseNow ends the connection at once, also when a Close waits for the other side.
func (s *Socket) CloseNow() error {
	if s.cork != nil {
		_ = s.cork.Close() // what the library then finds is that it is closed
	}
	return s.Conn.CloseNow()
}

// DialToken opens a WebSocket on the path made of the segments, with the token beside the
// subprotocol, as v1 has it, and follows one redirect.
func (l *Link) DialToken(ctx context.Context, subprotocol string, segments ...string) (*Socket, error) {
	token, err := l.CallerToken(ctx)
	if err != nil {
		return nil, err
	}
	return l.dialTwice(ctx, []string{subprotocol, token}, segments)
}

// Dial opens a WebSocket that carries no token, and follows one redirect.
func (l *Link) Dial(ctx context.Context, subprotocol string, segments ...string) (*Socket, error) {
	return l.dialTwice(ctx, []string{subprotocol}, segments)
}

func (l *Link) dialTwice(ctx context.Context, subprotocols, segments []string) (*Socket, error) {
	conn, next, err := l.dial(ctx, l.url(segments...), subprotocols)
	if next != nil {
		conn, next, err = l.dial(ctx, next, subprotocols)
		if next != nil {
			return nil, fmt.Errorf("%w: there is a second one behind the first", ErrRedirect)
		}
	}
	return conn, err
}

// dial offers the subprotocols, of which the server must choose the first.
func (l *Link) dial(ctx context.Context, at *url.URL, subprotocols []string) (*Socket, *url.URL, error) {
	keep := &bodyKeeper{next: l.Transport}
	traced, cork := findCork(ctx)
	conn, resp, err := websocket.Dial(traced, at.String(), &websocket.DialOptions{
		HTTPClient:      &http.Client{Transport: keep, CheckRedirect: stay},
		HTTPHeader:      http.Header{"User-Agent": {l.UserAgent}},
		Subprotocols:    subprotocols,
		CompressionMode: websocket.CompressionDisabled,
	})
	switch {
	case err == nil && conn.Subprotocol() != subprotocols[0]:
		_ = conn.CloseNow()
		return nil, nil, fmt.Errorf("%w: it did not choose the subprotocol %s", ErrProtocol, subprotocols[0])
	case err == nil:
		return &Socket{Conn: conn, PeerKey: peerKey(resp.TLS), cork: *cork}, nil, nil
	case ctx.Err() != nil:
		return nil, nil, context.Cause(ctx)
	case resp == nil:
		return nil, nil, unreachable(at, err)
	case isRedirect(resp.StatusCode):
		next, err := follow(at, resp, l.RedirectHosts)
		return nil, next, err
	case resp.StatusCode >= 400:
		return nil, nil, remote(resp.StatusCode, keep.body)
	}
	return nil, nil, fmt.Errorf("%w: it answered the handshake with status %d", ErrProtocol, resp.StatusCode)
}

// Request is a plain API call.
type Request struct {
	Method   string
	Segments []string
	Query    url.Values
	// NoToken leaves the token at home.
	NoToken bool
	// Limit bounds the answer in bytes.
	Limit int64
}

// JSON makes the request and decodes a 200 into out, unless out is nil.
func (l *Link) JSON(ctx context.Context, r Request, out any) error {
	token := ""
	if !r.NoToken {
		var err error
		if token, err = l.CallerToken(ctx); err != nil {
			return err
		}
	}
	at := l.url(r.Segments...)
	at.RawQuery = r.Query.Encode()
	status, body, next, err := l.get(ctx, r, at, token)
	if next != nil {
		status, body, next, err = l.get(ctx, r, next, token)
		if next != nil {
			return fmt.Errorf("%w: there is a second one behind the first", ErrRedirect)
		}
	}
	if err != nil {
		return err
	}
	if status != http.StatusOK {
		if status < 400 {
			return fmt.Errorf("%w: it answered with status %d", ErrProtocol, status)
		}
		return remote(status, body)
	}
	if out == nil {
		return nil
	}
	if err := json.Unmarshal(body, out); err != nil {
		return fmt.Errorf("%w: its answer is not the JSON expected", ErrProtocol)
	}
	return nil
}

func (l *Link) get(ctx context.Context, r Request, at *url.URL, token string) (int, []byte, *url.URL, error) {
	req, err := http.NewRequestWithContext(ctx, r.Method, at.String(), nil)
	if err != nil {
		return 0, nil, nil, err
	}
	req.Header.Set("User-Agent", l.UserAgent)
	req.Header.Set("Accept", "application/json")
	if token != "" {
		req.Header.Set("Authorization", "Bearer "+token)
	}
	resp, err := (&http.Client{Transport: l.Transport, CheckRedirect: stay}).Do(req)
	if err != nil {
		if ctx.Err() != nil {
			return 0, nil, nil, context.Cause(ctx)
		}
		return 0, nil, nil, unreachable(at, err)
	}
	defer resp.Body.Close()
	if isRedirect(resp.StatusCode) {
		next, err := follow(at, resp, l.RedirectHosts)
		return 0, nil, next, err
	}
	limit := r.Limit
	if resp.StatusCode != http.StatusOK {
		limit = maxErrorBody
	}
	body, err := io.ReadAll(io.LimitReader(resp.Body, limit+1))
	if err != nil {
		return 0, nil, nil, unreachable(at, err)
	}
	if int64(len(body)) > limit {
		return 0, nil, nil, fmt.Errorf("%w: its answer has more than %d bytes", ErrProtocol, limit)
	}
	return resp.StatusCode, body, nil, nil
}

// peerKey is the SHA-256 of the SPKI that a TLS server proved to hold, nil without TLS.
func peerKey(state *tls.ConnectionState) []byte {
	if state == nil || len(state.PeerCertificates) == 0 {
		return nil
	}
	sum := sha256.Sum256(state.PeerCertificates[0].RawSubjectPublicKeyInfo)
	return sum[:]
}

func stay(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }

func unreachable(at *url.URL, err error) error {
	var u *url.Error
	if errors.As(err, &u) {
		err = u.Err // its text repeats method and URL
	}
	return fmt.Errorf("%w: %s://%s: %w", ErrUnreachable, at.Scheme, at.Host, err)
}

// bodyKeeper keeps the body of a refused handshake: the WebSocket library shows its
// first kilobyte alone, and half of an explanation cannot be decoded.
type bodyKeeper struct {
	next http.RoundTripper
	body []byte
}

func (k *bodyKeeper) RoundTrip(req *http.Request) (*http.Response, error) {
	resp, err := k.next.RoundTrip(req)
	if err != nil || resp.StatusCode == http.StatusSwitchingProtocols {
		return resp, err
	}
	defer resp.Body.Close()
	// What cannot be read in time is left out: the status tells enough.
	k.body, _ = io.ReadAll(io.LimitReader(resp.Body, maxErrorBody))
	resp.Body = io.NopCloser(bytes.NewReader(k.body))
	return resp, nil
}
