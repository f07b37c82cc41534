package localkms

import (
	"crypto/tls"
	"net"
	"net/http"

	"github.com/cape-functions/cape/core/wire"
)

// Server is a running local KMS. It is an http.Handler that tells KMS and STS
// apart by X-Amz-Target and Action. It is safe for concurrent use.
type Server struct{}

// Open reads or makes the directory and returns a Server, which must be
// closed. Errors wrap ErrConfig, ErrInUse or ErrStore.
func Open(c Config) (*Server, error) { return nil, ErrConfig }

// ServeHTTP implements [http.Handler].
func (s *Server) ServeHTTP(w http.ResponseWriter, r *http.Request) {}

// Serve serves TLS on l, with deadlines on every connection, until Close,
// and then returns nil.
func (s *Server) Serve(l net.Listener) error { return ErrConfig }

// Credentials mints credentials, valid for an hour, for the principal whose
// ARN is given: a role ("arn:aws:iam::123456789012:role/NAME", which gets an
// assumed-role session), a user, or an account's root. They outlive the
// Server. For anything else they are empty.
func (s *Server) Credentials(principal string) wire.Credentials { return wire.Credentials{} }

// CertificatePEM returns the certificate of the CA that signed the TLS
// certificate; clients need it as their only root.
func (s *Server) CertificatePEM() []byte { return nil }

// TLSConfig returns a configuration for a listener, whose certificate renews
// itself.
func (s *Server) TLSConfig() *tls.Config { return nil }

// Close ends Serve and the background work.
func (s *Server) Close() error { return nil }
