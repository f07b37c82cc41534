package devserver

import (
	"errors"
	"fmt"
	"log/slog"
	"net"
	"path/filepath"

	"github.com/cape-functions/cape/host/internal/devnsm"
	"github.com/cape-functions/cape/host/internal/launcher"
)

// DefaultListen is where a platform without flags listens, and where a client
// that was told of no other server looks for it.
const DefaultListen = "127.0.0.1:7676"

// LevelNotice is the level of what somebody who just started the platform
// wants to see: above calls, below warnings.
const LevelNotice = slog.LevelInfo + 2

// ErrOptions: the options cannot be used.
var ErrOptions = errors.New("unusable options")

// Parts are what a launcher is made of here.
type Parts struct {
	// Dir is for sockets and mount points: short, private, removed at the end.
	Dir string
	// Authority plays the hypervisor.
	Authority *devnsm.Authority
}

// Options are those of `caped dev`.
type Options struct {
	// DataDir is absolute; it is made when missing.
	DataDir string
	// Listen is host:port; port 0 means a free one.
	Listen string
	// TLS serves HTTPS with a certificate of DataDir/ca.pem.
	TLS bool
	// EnclaveTLS, which needs TLS, opens a second listener on a free port of the same
	// address, passed through to the enclave, and moves sessions of protocol v2 there.
	EnclaveTLS bool
	// NewLauncher chooses the kind of enclave.
	NewLauncher func(Parts) (launcher.Launcher, error)
	// Pairs is how many RSA pairs the local KMS keeps ahead of need (localkms.Config).
	Pairs int
	Log   *slog.Logger
	// Ready is called, when it is set, once the platform can serve.
	Ready func(url string)
}

// Validate checks what Run and InitKMS need.
func (o *Options) Validate() error {
	switch {
	case !filepath.IsAbs(o.DataDir):
		return fmt.Errorf("%w: data directory %q is not absolute", ErrOptions, o.DataDir)
	case o.EnclaveTLS && !o.TLS:
		return fmt.Errorf("%w: TLS in the enclave without TLS on the host", ErrOptions)
	case o.NewLauncher == nil || o.Log == nil:
		return fmt.Errorf("%w: no launcher or no log", ErrOptions)
	}
	if _, _, err := net.SplitHostPort(o.Listen); o.Listen != "" && err != nil {
		return fmt.Errorf("%w: listen address %q needs the form HOST:PORT", ErrOptions, o.Listen)
	}
	return nil
}
