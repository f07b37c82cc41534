// Package fleet is how workers (parent instances with enclaves) and the control
// plane speak: spec/worker-api.md. A worker says again and again what it is; the
// control plane hands it what enclaves boot with, and answers their store link
// through it. Everything that passes is ciphertext or public, but for the token
// that workers show and, in v1 sessions, what the original's protocol shows to
// every host.
package fleet

import (
	"crypto/sha256"
	"crypto/subtle"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/url"
	"os"
	"regexp"
	"strings"
	"time"

	"github.com/cape-functions/cape/core/wire"
)

// Times.
const (
	// Beat is how often a worker says what it is.
	Beat = 3 * time.Second
	// Lease is how long that counts.
	Lease = 10 * time.Second
)

// Sizes.
const (
	maxWorker   = 128 << 10 // of a worker's JSON
	maxReleases = 16
	minToken    = 32
	maxToken    = 512
	// maxBirth bounds a birth message, maxBoot what enclaves boot with.
	maxBirth = wire.MaxPolicy + wire.MaxDocument + 4<<10
	maxBoot  = wire.MaxConfig + wire.MaxDocument + 64<<10
)

// States of a worker.
const (
	Starting = "starting" // gets no sessions yet
	Ready    = "ready"
	Draining = "draining" // gets no new ones
)

var (
	// ErrWorker: what a worker says of itself cannot be used.
	ErrWorker = errors.New("unusable worker")
	// ErrToken: the worker token cannot be used, or is not the control plane's.
	ErrToken = errors.New("unusable worker token")
	// ErrControl: the control plane does not answer, or not as it should.
	ErrControl = errors.New("the control plane cannot be used")
)

// Worker is what a worker says of itself.
type Worker struct {
	Name string `json:"name"`
	// Address is host:port, where the control plane connects.
	Address string `json:"address"`
	// Certificate is the SHA-256 of its certificate there, lower hex.
	Certificate string `json:"certificate"`
	// URL is where clients may be sent; empty: nowhere, the control plane pipes.
	URL string `json:"url,omitempty"`
	// State is one of Starting, Ready, Draining.
	State string `json:"state"`
	// Connections is how many it carries now, Capacity how many it can.
	Connections int `json:"connections"`
	Capacity    int `json:"capacity"`
	// Releases is what its enclaves run.
	Releases []wire.Release `json:"releases"`
}

var namePattern = regexp.MustCompile(`^[A-Za-z0-9]([A-Za-z0-9.-]{0,61}[A-Za-z0-9])?$`)

// ValidName tells whether a worker may have that name: 1 to 63 letters, digits,
// dots and hyphens.
func ValidName(name string) bool { return namePattern.MatchString(name) }

// Validate checks what a worker said. Errors wrap ErrWorker.
func (w *Worker) Validate() error {
	sum, err := hex.DecodeString(w.Certificate)
	switch {
	case !ValidName(w.Name):
		return fmt.Errorf("%w: name %q", ErrWorker, w.Name)
	case err != nil || len(sum) != sha256.Size || strings.ToLower(w.Certificate) != w.Certificate:
		return fmt.Errorf("%w: certificate is not a SHA-256", ErrWorker)
	case w.State != Starting && w.State != Ready && w.State != Draining:
		return fmt.Errorf("%w: state %q", ErrWorker, w.State)
	case w.Connections < 0 || w.Capacity < 0 || len(w.Releases) > maxReleases:
		return fmt.Errorf("%w: a number is out of range", ErrWorker)
	}
	if host, port, err := net.SplitHostPort(w.Address); err != nil || host == "" || port == "" || port == "0" {
		return fmt.Errorf("%w: address %q needs the form HOST:PORT", ErrWorker, w.Address)
	}
	if w.URL == "" {
		return nil
	}
	return CheckPublicURL(w.URL)
}

// CheckPublicURL tells whether clients may be sent to a URL: https://HOST[:PORT].
// Errors wrap ErrWorker.
func CheckPublicURL(text string) error {
	u, err := url.Parse(text)
	if err != nil || u.Scheme != "https" || u.Host == "" || (u.Path != "" && u.Path != "/") || u.User != nil || u.RawQuery != "" || u.Fragment != "" {
		return fmt.Errorf("%w: URL %q needs the form https://HOST", ErrWorker, text)
	}
	return nil
}

// Token is what workers show to the control plane. It never prints.
type Token struct{ value string }

// NewToken checks a token: 32 to 512 visible ASCII characters. Errors wrap ErrToken.
func NewToken(text string) (Token, error) {
	if len(text) < minToken || len(text) > maxToken || strings.ContainsFunc(text, func(r rune) bool { return r <= ' ' || r > '~' }) {
		return Token{}, fmt.Errorf("%w: it needs %d to %d visible characters; openssl rand -hex 32 makes one", ErrToken, minToken, maxToken)
	}
	return Token{text}, nil
}

// ReadToken reads a token from a file that only its owner and group can read.
// Errors wrap ErrToken.
func ReadToken(path string) (Token, error) {
	f, err := os.Open(path)
	if err != nil {
		return Token{}, fmt.Errorf("%w: %w", ErrToken, err)
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return Token{}, fmt.Errorf("%w: %w", ErrToken, err)
	}
	if info.Mode().Perm()&0o007 != 0 {
		return Token{}, fmt.Errorf("%w: everybody can read %s; chmod 0640", ErrToken, path)
	}
	text, err := io.ReadAll(io.LimitReader(f, maxToken+64))
	if err != nil {
		return Token{}, fmt.Errorf("%w: %w", ErrToken, err)
	}
	t, err := NewToken(strings.TrimSpace(string(text)))
	if err != nil {
		return Token{}, fmt.Errorf("%s: %w", path, err)
	}
	return t, nil
}

// Is compares in constant time. The zero Token is nobody's.
func (t Token) Is(presented string) bool {
	a, b := sha256.Sum256([]byte(t.value)), sha256.Sum256([]byte(presented))
	return t.value != "" && subtle.ConstantTimeCompare(a[:], b[:]) == 1
}

// String implements fmt.Stringer.
func (t Token) String() string { return "[redacted]" }

// GoString implements fmt.GoStringer.
func (t Token) GoString() string { return "[redacted]" }

// LogValue implements slog.LogValuer.
func (t Token) LogValue() slog.Value { return slog.StringValue("[redacted]") }
