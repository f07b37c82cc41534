package link

import (
	"context"
	"io"
	"net/http"
	"strings"

	"github.com/cape-functions/cape/core/wire"
	"github.com/cape-functions/cape/host/internal/api/reply"
)

// maxBirth bounds what a runtime posts to /v1/birth, in bytes.
const maxBirth = wire.MaxPolicy + wire.MaxDocument + 4<<10

// Boot answers the boot link.
type Boot struct {
	// Message returns what the runtime boots with.
	Message func(ctx context.Context) (wire.Boot, error)
	// Born receives the birth document of a new KEK; nil outside of
	// wire.ModeKMSInit, where a birth is refused.
	Born func(ctx context.Context, b wire.Birth) error
	// Certify has a certificate made for the key of a request (PKCS#10, DER) and
	// returns the chain as PEM; nil: no TLS is passed through to the runtime.
	Certify func(ctx context.Context, csr []byte) ([]byte, error)
}

// Handler returns the link's routes: GET /v1/boot, POST /v1/birth and
// POST /v1/certificate.
func (b Boot) Handler() http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("GET /v1/boot", b.boot)
	mux.HandleFunc("POST /v1/birth", b.birth)
	mux.HandleFunc("POST /v1/certificate", b.certificate)
	return mux
}

func (b Boot) boot(w http.ResponseWriter, r *http.Request) {
	m, err := b.Message(r.Context())
	if err != nil {
		reply.Error(w, wire.CodeUnavailable, "the host has no boot message", "see the host's log")
		return
	}
	body, err := wire.Marshal(m)
	if err != nil {
		reply.Error(w, wire.CodeInternal, "the boot message cannot be encoded", "")
		return
	}
	writeCBOR(w, http.StatusOK, body)
}

func (b Boot) birth(w http.ResponseWriter, r *http.Request) {
	if b.Born == nil {
		reply.Error(w, wire.CodeInvalidRequest, "this runtime was not started to create a key", "")
		return
	}
	stall := newStall(w, 0)
	data, err := io.ReadAll(io.LimitReader(stall.reader(r.Body), maxBirth+1))
	if err != nil {
		reply.Error(w, wire.CodeInvalidRequest, "the birth document did not arrive whole", "")
		return
	}
	var birth wire.Birth
	if err := wire.Unmarshal(data, maxBirth, &birth); err != nil {
		reply.Error(w, wire.CodeInvalidRequest, "the birth document is malformed", "")
		return
	}
	if !strings.HasPrefix(birth.KMS, "arn:") || len(birth.KMS) > 2048 || len(birth.Policy) == 0 || len(birth.Document) == 0 {
		reply.Error(w, wire.CodeInvalidRequest, "the birth document is incomplete", "")
		return
	}
	if err := b.Born(r.Context(), birth); err != nil {
		reply.Error(w, wire.CodeUnavailable, "the birth document could not be stored", "see the host's log")
		return
	}
	w.WriteHeader(http.StatusNoContent)
}

func (b Boot) certificate(w http.ResponseWriter, r *http.Request) {
	if b.Certify == nil {
		reply.Error(w, wire.CodeNotFound, "no TLS is passed through to this runtime", "")
		return
	}
	stall := newStall(w, 0)
	csr, err := io.ReadAll(io.LimitReader(stall.reader(r.Body), wire.MaxCSR+1))
	if err != nil || len(csr) > wire.MaxCSR {
		reply.Error(w, wire.CodeInvalidRequest, "the certificate request did not arrive whole", "")
		return
	}
	chain, err := b.Certify(r.Context(), csr)
	if err != nil || len(chain) > wire.MaxCertificates {
		reply.Error(w, wire.CodeUnavailable, "no certificate could be made", "see the host's log")
		return
	}
	w.Header().Set("Content-Type", "application/pem-certificate-chain")
	_, _ = w.Write(chain) // the runtime left
}

// Credentials returns the credentials link's one route, GET /v1/credentials.
func Credentials(get func(ctx context.Context) (wire.Credentials, error)) http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("GET /v1/credentials", func(w http.ResponseWriter, r *http.Request) {
		c, err := get(r.Context())
		if err != nil {
			reply.Error(w, wire.CodeUnavailable, "the host has no credentials", "see the host's log")
			return
		}
		reply.JSON(w, http.StatusOK, c)
	})
	return mux
}
