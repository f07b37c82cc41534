package fleet

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httputil"
	"net/url"
	"strings"
	"time"

	"github.com/cape-functions/cape/core/wire"
	"github.com/cape-functions/cape/host/internal/api/reply"
	"github.com/cape-functions/cape/host/internal/kek"
)

// Client is a worker's way to the control plane. It is safe for concurrent use.
type Client struct {
	base  *url.URL
	token Token
	http  *http.Client
	log   *slog.Logger
}

// NewClient checks the control plane's URL, https://HOST[:PORT], or http on
// loopback. roots are its authorities; nil means the system's. Errors wrap ErrControl.
func NewClient(base string, token Token, roots *x509.CertPool, log *slog.Logger) (*Client, error) {
	if err := CheckControl(base); err != nil {
		return nil, err
	}
	u, err := url.Parse(base)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrControl, err)
	}
	transport := &http.Transport{
		DialContext:     (&net.Dialer{Timeout: 5 * time.Second}).DialContext,
		TLSClientConfig: &tls.Config{RootCAs: roots, MinVersion: tls.VersionTLS13}, TLSHandshakeTimeout: 5 * time.Second,
		ResponseHeaderTimeout: time.Minute, IdleConnTimeout: time.Minute, MaxIdleConnsPerHost: 32,
		MaxResponseHeaderBytes: wire.MaxHeader, DisableCompression: true,
	}
	return &Client{base: u, token: token, log: log, http: &http.Client{
		Transport: transport, CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}}, nil
}

// CheckControl tells whether a URL may be a control plane's. Errors wrap ErrControl.
func CheckControl(text string) error {
	u, err := url.Parse(text)
	if err != nil || u.Host == "" || (u.Path != "" && u.Path != "/") || u.User != nil || u.RawQuery != "" || u.Fragment != "" {
		return fmt.Errorf("%w: %q needs the form https://HOST:PORT", ErrControl, text)
	}
	ip := net.ParseIP(u.Hostname())
	if u.Scheme != "https" && (u.Scheme != "http" || u.Hostname() != "localhost" && (ip == nil || !ip.IsLoopback())) {
		return fmt.Errorf("%w: %q would show the worker token to the network; use https, or http on this machine alone", ErrControl, text)
	}
	return nil
}

// Close ends idle connections.
func (c *Client) Close() { c.http.CloseIdleConnections() }

// call is one request with a small body and a small answer.
func (c *Client) call(ctx context.Context, method, path string, body []byte, limit int) ([]byte, error) {
	ctx, cancel := context.WithTimeout(ctx, wire.LinkCall)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, method, c.base.JoinPath(path).String(), bytes.NewReader(body))
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrControl, err)
	}
	req.Header.Set("Authorization", "Bearer "+c.token.value)
	resp, err := c.http.Do(req)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrControl, err)
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(io.LimitReader(resp.Body, int64(limit)+1))
	switch {
	case err != nil:
		return nil, fmt.Errorf("%w: %w", ErrControl, err)
	case resp.StatusCode == http.StatusUnauthorized:
		return nil, fmt.Errorf("%w: the control plane has another one", ErrToken)
	case resp.StatusCode == http.StatusNotFound && path == "v1/boot":
		return nil, kek.ErrNone
	case resp.StatusCode == http.StatusConflict:
		return nil, kek.ErrExists
	case resp.StatusCode >= 300:
		var said wire.ErrorBody
		_ = json.Unmarshal(b, &said) // its text is a help, no more
		return nil, fmt.Errorf("%w: %s: %.200q", ErrControl, resp.Status, said.Error)
	case len(b) > limit:
		return nil, fmt.Errorf("%w: an answer of more than %d bytes", ErrControl, limit)
	}
	return b, nil
}

// Say tells what the worker is, for the time of Lease.
func (c *Client) Say(ctx context.Context, w Worker) error {
	if err := w.Validate(); err != nil {
		return err
	}
	b, err := json.Marshal(w)
	if err != nil {
		return err
	}
	_, err = c.call(ctx, http.MethodPut, "v1/workers/"+w.Name, b, 4<<10)
	return err
}

// Leave makes the control plane forget the worker.
func (c *Client) Leave(ctx context.Context, name string) error {
	_, err := c.call(ctx, http.MethodDelete, "v1/workers/"+name, nil, 4<<10)
	return err
}

// Boot returns what enclaves boot with, routes aside; kek.ErrNone while the platform
// has no key.
func (c *Client) Boot(ctx context.Context) (wire.Boot, error) {
	var m wire.Boot
	b, err := c.call(ctx, http.MethodGet, "v1/boot", nil, maxBoot)
	if err != nil {
		return m, err
	}
	if err := wire.Unmarshal(b, maxBoot, &m); err != nil {
		return m, fmt.Errorf("%w: %w", ErrControl, err)
	}
	return m, nil
}

// Trust returns what a key is to be made for.
func (c *Client) Trust(ctx context.Context) (wire.Trust, error) {
	var t wire.Trust
	b, err := c.call(ctx, http.MethodGet, "v1/trust", nil, wire.MaxConfig)
	if err != nil {
		return t, err
	}
	if err := wire.Unmarshal(b, wire.MaxConfig, &t); err != nil {
		return t, fmt.Errorf("%w: %w", ErrControl, err)
	}
	return t, nil
}

// Born hands over the birth of the platform's first key; kek.ErrExists when it has
// one already.
func (c *Client) Born(ctx context.Context, b wire.Birth) error {
	body, err := wire.Marshal(b)
	if err != nil {
		return err
	}
	_, err = c.call(ctx, http.MethodPost, "v1/birth", body, 4<<10)
	return err
}

// Store answers enclaves' store link by passing it on. It streams: no body is held.
func (c *Client) Store() http.Handler {
	return &httputil.ReverseProxy{
		Transport: c.http.Transport,
		Rewrite: func(r *httputil.ProxyRequest) {
			r.Out.URL.Scheme, r.Out.URL.Host = c.base.Scheme, c.base.Host
			r.Out.URL.Path, r.Out.URL.RawPath = "/v1/store"+r.In.URL.Path, ""
			if raw := r.In.URL.RawPath; raw != "" {
				r.Out.URL.RawPath = "/v1/store" + raw
			}
			r.Out.Host = ""
			kind := r.In.Header.Get("Content-Type")
			r.Out.Header = http.Header{"Authorization": {"Bearer " + c.token.value}}
			if kind != "" {
				r.Out.Header.Set("Content-Type", kind)
			}
		},
		ErrorLog: slog.NewLogLogger(c.log.Handler(), slog.LevelDebug),
		ErrorHandler: func(w http.ResponseWriter, r *http.Request, err error) {
			if r.Context().Err() == nil {
				c.log.Warn("the control plane's store was not reached", "error", strings.ReplaceAll(err.Error(), c.token.value, ""))
			}
			reply.Error(w, wire.CodeUnavailable, "the server's store does not answer", "try again; its operator finds the reason in the log")
		},
	}
}
