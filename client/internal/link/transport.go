package link

import (
	"crypto/tls"
	"crypto/x509"
	"net/http"
	"time"
)

// NewTransport returns the transport of a link: HTTP/1.1, TLS 1.2 or newer, bounded
// waits. roots nil means the system's. insecure leaves the server's certificate
// unchecked.
func NewTransport(roots *x509.CertPool, insecure bool) *http.Transport {
	return &http.Transport{
		Proxy:       http.ProxyFromEnvironment,
		DialContext: dialCorkable,
		TLSClientConfig: &tls.Config{
			MinVersion: tls.VersionTLS12, RootCAs: roots, NextProtos: []string{"http/1.1"},
			InsecureSkipVerify: insecure, // asked for by name, and announced
		},
		TLSHandshakeTimeout:    15 * time.Second,
		ResponseHeaderTimeout:  2 * time.Minute,
		MaxResponseHeaderBytes: 64 << 10,
		MaxIdleConns:           4,
		IdleConnTimeout:        30 * time.Second,
		ReadBufferSize:         64 << 10,
		WriteBufferSize:        64 << 10,
	}
}
