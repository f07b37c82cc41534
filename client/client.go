package client

import (
	"context"
	"crypto/x509"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"strings"
	"time"

	"github.com/cape-functions/cape/client/internal/link"
	v1 "github.com/cape-functions/cape/client/internal/v1"
	"github.com/cape-functions/cape/client/trust"
	"github.com/cape-functions/cape/core/account"
	"github.com/cape-functions/cape/core/attest"
	"github.com/cape-functions/cape/core/attest/chain"
	"github.com/cape-functions/cape/core/keypolicy"
	"github.com/cape-functions/cape/core/wire"
)

// TokenSource returns the caller's token: an access token or personal access token.
type TokenSource func(context.Context) (string, error)

// StaticToken is the TokenSource of a token that is known.
func StaticToken(token string) TokenSource {
	return func(context.Context) (string, error) {
		if token == "" {
			return "", errors.New("it is empty")
		}
		return strings.TrimSpace(token), nil
	}
}

// Options set up a Client.
type Options struct {
	// BaseURL is the server as the user names it: https://host, perhaps with a path.
	BaseURL string
	// Trust decides which enclaves are believed; nil refuses every one.
	Trust trust.Judge
	// Token is the caller's; nil: routes that need one fail with ErrToken.
	Token TokenSource
	// Account is the caller's account key, which signs what is deployed and every sealed
	// session; nil: the caller has none, and can deploy and test in v1 alone.
	Account *account.Key
	// Grant is what an account gave the caller to show beside the token; nil: nothing.
	Grant []byte
	// Protocol is the protocol spoken; the zero value is ProtocolV2. Nothing that a server
	// says changes it.
	Protocol Protocol
	// Log is told what handlers print, where the enclave sends it: to the function's
	// owner. It is called from the goroutine that awaits the result.
	Log func(stream string, data []byte)
	// TLSRoots are the roots for the server's TLS certificate; nil: the system's.
	TLSRoots *x509.CertPool
	// InsecureTLS leaves the server's TLS certificate unchecked: whoever is on the way
	// reads tokens and results.
	InsecureTLS bool
	// RedirectHosts are hosts, beside the server's own and those below it, that a
	// redirect may lead to, and so get the token.
	RedirectHosts []string
	// UserAgent is sent to the server; empty: "cape-go".
	UserAgent string
	// MaxOutput bounds a result in bytes; zero: 1 GiB.
	MaxOutput int64
	// Verifier remembers certificate chains; nil: a new one.
	Verifier *chain.Verifier
	// Now is the clock; nil: time.Now.
	Now func() time.Time
}

// Protocol is a version of the protocol.
type Protocol int

// The protocols.
const (
	// ProtocolV2 seals everything to the attested enclave: inputs, results, functions and
	// the token, by a post-quantum key exchange.
	ProtocolV2 Protocol = iota
	// ProtocolV1 is that of the original platform: results, and the token, are visible to
	// whoever ends TLS.
	ProtocolV1
)

// Client talks to one server. It is safe for concurrent use.
type Client struct {
	link     *link.Link
	close    func()
	origin   string
	judge    trust.Judge
	verifier *chain.Verifier
	births   keypolicy.Births
	now      func() time.Time
	output   int64
	account  *account.Key
	grant    []byte
	protocol Protocol
	log      func(stream string, data []byte)
}

// New returns a client; it connects to nothing yet. Errors match ErrOptions.
func New(o Options) (*Client, error) {
	origin, err := trust.Origin(o.BaseURL)
	if err != nil {
		return nil, fmt.Errorf("%w: server address: %w", ErrOptions, err)
	}
	base, err := url.Parse(o.BaseURL)
	if err != nil {
		return nil, fmt.Errorf("%w: server address: %w", ErrOptions, err)
	}
	if o.Protocol != ProtocolV1 && o.Protocol != ProtocolV2 {
		return nil, fmt.Errorf("%w: there is no protocol %d", ErrOptions, o.Protocol)
	}
	if base.RawQuery != "" || base.Fragment != "" {
		return nil, fmt.Errorf("%w: server address: it must not hold a query or fragment", ErrOptions)
	}
	base.Scheme = strings.ToLower(base.Scheme)
	base.Path = strings.TrimRight(base.Path, "/")
	if o.Trust == nil {
		o.Trust = trust.Nobody{}
	}
	if o.Verifier == nil {
		o.Verifier = chain.New()
	}
	if o.Now == nil {
		o.Now = time.Now
	}
	if o.UserAgent == "" {
		o.UserAgent = "cape-go"
	}
	if o.MaxOutput <= 0 || o.MaxOutput > wire.MaxOutput {
		o.MaxOutput = wire.MaxOutput
	}
	transport := link.NewTransport(o.TLSRoots, o.InsecureTLS)
	return &Client{
		link: &link.Link{Base: base, Transport: transport, Token: o.Token,
			RedirectHosts: o.RedirectHosts, UserAgent: o.UserAgent},
		close: transport.CloseIdleConnections, origin: origin, judge: o.Trust, verifier: o.Verifier,
		now: o.Now, output: o.MaxOutput, account: o.Account, grant: o.Grant, protocol: o.Protocol, log: o.Log,
	}, nil
}

// Origin returns the server as the trust file knows it.
func (c *Client) Origin() string { return c.origin }

// Close gives up idle connections. Sessions are closed on their own.
func (c *Client) Close() { c.close() }

// slow is how long a judge may think before the server is likely to have given up the
// connection: somebody was asked.
const slow = 20 * time.Second

// open starts a v1 session on the path and verifies its document. A judge that took
// long, because it asked somebody, gets a fresh connection and document.
func (c *Client) open(ctx context.Context, route v1.Route, path ...string) (*v1.Session, error) {
	for again := false; ; again = true {
		ws, err := c.link.DialToken(ctx, wire.SubprotocolRuntime, path...)
		if err != nil {
			return nil, err
		}
		var took time.Duration
		s, err := v1.Open(ctx, ws.Conn, route, func(ctx context.Context, document, nonce []byte) (*attest.Evidence, error) {
			begin := c.now()
			ev, err := c.judge.Enclave(ctx, c.contact(route, document, nonce))
			took = c.now().Sub(begin)
			return ev, err
		})
		if err != nil {
			return nil, attestation(err)
		}
		if took < slow || again {
			return s, nil
		}
		s.Close()
	}
}

func (c *Client) contact(route v1.Route, document, nonce []byte) trust.Contact {
	return trust.Contact{
		Origin: c.origin, Document: document, Nonce: nonce, At: c.now(), Verifier: c.verifier,
		Claims: func(ev *attest.Evidence) (trust.Claims, error) {
			claims, err := v1.ParseClaims(route, ev.Document)
			return trust.Claims{KeyPolicy: claims.KeyPolicy}, err
		},
	}
}

// List returns at most limit of the caller's functions, newest first, after leaving
// out offset of them.
func (c *Client) List(ctx context.Context, limit, offset int) ([]wire.Function, error) {
	query := url.Values{"limit": {fmt.Sprint(limit)}, "offset": {fmt.Sprint(offset)}}
	var out []wire.Function
	err := c.link.JSON(ctx, link.Request{Method: http.MethodGet, Segments: []string{"v1", "functions"}, Query: query, Limit: 64 << 20}, &out)
	return out, err
}

// Delete deletes one of the caller's functions.
func (c *Client) Delete(ctx context.Context, id string) error {
	f := Function{Name: id}
	path, err := f.split()
	if err != nil || len(path) != 1 {
		return fmt.Errorf("%w: %.100q: deleting takes an id", ErrFunction, id)
	}
	return c.link.JSON(ctx, link.Request{Method: http.MethodDelete, Segments: []string{"v1", "functions", id}, Limit: 1 << 20}, nil)
}

// Releases returns what the server says it runs. Nothing vouches for it: it is for
// comparing with what was measured, and for tools that prepare functions.
func (c *Client) Releases(ctx context.Context) ([]wire.Release, error) {
	var out []wire.Release
	err := c.link.JSON(ctx, link.Request{Method: http.MethodGet, Segments: []string{"v1", "releases"}, NoToken: true, Limit: 1 << 20}, &out)
	return out, err
}
