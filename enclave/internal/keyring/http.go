package keyring

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"net"
	"net/http"
	"net/url"
	"time"
)

// Limits of one HTTP exchange.
const (
	maxBody         = 256 << 10 // a key policy of 32 KiB, escaped, is the largest answer
	maxHeader       = 32 << 10
	handshakeLimit  = 10 * time.Second
	responseLimit   = 10 * time.Second
	idleConnections = 8
)

// NewHTTPClient returns a client for Config.HTTP: every connection comes from dial (which
// gets "tcp" and "host:port"), TLS 1.2 or later ends here and trusts roots alone, and
// there is no proxy, no redirect and no cookie.
func NewHTTPClient(dial func(ctx context.Context, network, address string) (net.Conn, error), roots *x509.CertPool) *http.Client {
	return &http.Client{
		CheckRedirect: noRedirect,
		Transport: &http.Transport{
			DialContext:            dial,
			TLSClientConfig:        &tls.Config{RootCAs: roots, MinVersion: tls.VersionTLS12},
			TLSHandshakeTimeout:    handshakeLimit,
			ResponseHeaderTimeout:  responseLimit,
			MaxResponseHeaderBytes: maxHeader,
			MaxIdleConnsPerHost:    idleConnections,
			IdleConnTimeout:        30 * time.Second,
			DisableCompression:     true,
			ForceAttemptHTTP2:      true,
		},
	}
}

func noRedirect(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }

// guard lets the SDK send requests to one endpoint and read answers of bounded size.
type guard struct {
	client   http.Client
	endpoint *url.URL
}

func newGuard(client *http.Client, endpoint string) (*guard, error) {
	u, err := url.Parse(endpoint)
	if err != nil || u.Scheme != "https" || u.Host == "" || u.User != nil || (u.Path != "" && u.Path != "/") || u.RawQuery != "" {
		return nil, fmt.Errorf("%w: %q is not the https URL of an endpoint", ErrConfig, endpoint)
	}
	g := &guard{client: *client, endpoint: u}
	g.client.CheckRedirect, g.client.Jar = noRedirect, nil
	return g, nil
}

// Do implements the SDK's HTTPClient.
func (g *guard) Do(req *http.Request) (*http.Response, error) {
	if req.URL.Scheme != g.endpoint.Scheme || req.URL.Host != g.endpoint.Host {
		return nil, fmt.Errorf("%w: a request to %s instead of %s", ErrConfig, req.URL.Host, g.endpoint.Host)
	}
	resp, err := g.client.Do(req)
	if err != nil {
		return nil, err
	}
	resp.Body = http.MaxBytesReader(nil, resp.Body, maxBody)
	return resp, nil
}
