// Package nitro launches enclaves of AWS Nitro through nitro-cli: run-enclave,
// describe-enclaves, terminate-enclave. Enclaves are never started in debug mode,
// whose documents no client accepts.
package nitro

import (
	"context"
	"crypto/rand"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"math/big"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"github.com/cape-functions/cape/core/wire"
	"github.com/cape-functions/cape/host/internal/launcher"
	"github.com/cape-functions/cape/host/internal/launcher/hub"
	"github.com/cape-functions/cape/image/eif"
	"github.com/cape-functions/cape/vsock"
)

// Deadlines.
const (
	runWait       = 3 * time.Minute // loading memory and the heartbeat
	describeWait  = 15 * time.Second
	terminateWait = 5 * time.Second
	readyWait     = time.Minute // from the heartbeat to the session port
)

// CIDs that are given to enclaves: below are those that have a meaning.
const (
	firstCID = 16
	lastCID  = 1 << 20
)

var (
	// ErrConfig: the configuration cannot be used.
	ErrConfig = errors.New("unusable configuration of Nitro enclaves")
	// ErrImage: the image cannot be used, or is not the one that its release file
	// describes.
	ErrImage = errors.New("not the image that should run")
	// ErrDebug: an enclave came up in debug mode.
	ErrDebug = errors.New("the enclave runs in debug mode, in which it can be read")
	// ErrEnded: the enclave is gone.
	ErrEnded = errors.New("the enclave has ended")
	// ErrSilent: the enclave runs, and answers nobody.
	ErrSilent = errors.New("the enclave does not answer")
)

// Config says what to launch.
type Config struct {
	// CLI is nitro-cli's path; empty means "nitro-cli" in PATH.
	CLI string
	// Image is the path of an enclave image file.
	Image string
	// Release is what is published of the image. Measurements and hash are the
	// image's own; when they are given they must agree with it.
	Release wire.Release
	// CPUs and Memory (MiB) are what each enclave gets.
	CPUs, Memory int
	// Name is the beginning of the enclaves' names: letters, digits and hyphens.
	// Enclaves with that beginning are this launcher's, and Sweep ends them.
	Name string
	// Hub is the host's end of the links.
	Hub *hub.Hub
	// Network reaches an enclave; nil means vsock.AF.
	Network func(cid uint32) vsock.Network
	// Poll is how often an enclave is looked at; 0 means 2 seconds.
	Poll time.Duration
	Log  *slog.Logger
}

// Launcher starts Nitro enclaves.
type Launcher struct {
	cfg Config
	cli cli
}

// New checks cfg and returns a Launcher. It reads the image once, for its hash.
func New(ctx context.Context, cfg Config) (*Launcher, error) {
	if cfg.CLI == "" {
		cfg.CLI = "nitro-cli"
	}
	if cfg.Network == nil {
		cfg.Network = vsock.AF
	}
	if cfg.Poll == 0 {
		cfg.Poll = 2 * time.Second
	}
	switch {
	case cfg.CPUs < 1 || cfg.Memory < 64:
		return nil, fmt.Errorf("%w: an enclave needs at least 1 CPU (2 where cores have two threads) and 64 MiB", ErrConfig)
	case cfg.Name == "" || strings.Trim(cfg.Name, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-") != "":
		return nil, fmt.Errorf("%w: name %q needs letters, digits and hyphens", ErrConfig, cfg.Name)
	case !filepath.IsAbs(cfg.Image):
		return nil, fmt.Errorf("%w: path of the image %q is not absolute", ErrConfig, cfg.Image)
	}
	if err := inspect(ctx, &cfg); err != nil {
		return nil, err
	}
	return &Launcher{cfg, cli{cfg.CLI}}, nil
}

// inspect reads the whole image and completes the release.
func inspect(ctx context.Context, cfg *Config) error {
	f, err := os.Open(cfg.Image)
	if err != nil {
		return fmt.Errorf("%w: %w", ErrConfig, err)
	}
	defer f.Close()
	h := sha256.New()
	img, err := eif.Read(ctx, io.TeeReader(f, h), nil)
	if err != nil {
		return fmt.Errorf("%w: reading %s: %w", ErrImage, cfg.Image, err)
	}
	sum := hex.EncodeToString(h.Sum(nil))
	r := &cfg.Release
	switch need := 4 * img.Size >> 20; {
	case img.Development():
		return fmt.Errorf("%w: %s is a development image, which no client trusts on AWS", ErrImage, cfg.Image)
	case img.Certificate == nil:
		return fmt.Errorf("%w: %s is not signed, and no key's policy admits unsigned images; see cape eif sign", ErrImage, cfg.Image)
	case r.ImageSHA256 != "" && r.ImageSHA256 != sum:
		return fmt.Errorf("%w: SHA-256 of %s is %s, the release file says %s", ErrImage, cfg.Image, sum, r.ImageSHA256)
	case len(r.Measurements) > 0 && launcher.Differs(r.Measurements, img.Measurements.Map()) != "":
		return fmt.Errorf("%w: %s of %s is not what the release file says", ErrImage, launcher.Differs(r.Measurements, img.Measurements.Map()), cfg.Image)
	case int64(cfg.Memory) < need:
		return fmt.Errorf("%w: %d MiB are too few for this image, which needs four times its size: %d MiB", ErrConfig, cfg.Memory, need)
	}
	r.ImageSHA256, r.Measurements = sum, img.Measurements.Map()
	return nil
}

// Measure implements launcher.Launcher.
func (l *Launcher) Measure(context.Context) (map[string]string, error) {
	return l.cfg.Release.Measurements, nil
}

// Sweep ends what a caped that was killed left running under this name.
func (l *Launcher) Sweep(ctx context.Context) (ended int, err error) {
	all, err := l.describe(ctx)
	if err != nil {
		return 0, err
	}
	var errs []error
	for _, e := range all {
		if !strings.HasPrefix(e.EnclaveName, l.cfg.Name+"-") {
			continue
		}
		if err := l.terminate(ctx, "--enclave-id", e.EnclaveID); err != nil {
			errs = append(errs, err)
			continue
		}
		ended++
	}
	return ended, errors.Join(errs...)
}

func (l *Launcher) describe(ctx context.Context) ([]described, error) {
	var all []described
	err := l.cli.call(ctx, describeWait, &all, "describe-enclaves")
	return all, err
}

func (l *Launcher) terminate(ctx context.Context, by, which string) error {
	var t terminated
	if err := l.cli.call(ctx, terminateWait, &t, "terminate-enclave", by, which); err != nil {
		return err
	}
	if !t.Terminated {
		return &Error{Command: "terminate-enclave", Text: "the enclave was not ended", Hint: "see /var/log/nitro_enclaves/nitro_enclaves.log"}
	}
	return nil
}

// Launch implements launcher.Launcher.
func (l *Launcher) Launch(ctx context.Context, spec launcher.Spec) (launcher.Enclave, error) {
	name, cid, err := l.identity()
	if err != nil {
		return nil, err
	}
	member, err := l.cfg.Hub.Join(cid, spec.Services)
	if err != nil {
		return nil, err
	}
	e := &enclave{launcher: l, name: name, cid: cid, member: member, net: l.cfg.Network(cid), done: make(chan struct{}), ready: make(chan struct{}), closing: make(chan struct{})}
	if err := e.run(ctx); err != nil {
		// nitro-cli may have been cut short after the enclave was made.
		cleanup := l.terminate(context.WithoutCancel(ctx), "--enclave-name", name)
		l.cfg.Log.Debug("an enclave that did not start was ended", "name", name, "error", cleanup)
		member.Leave()
		return nil, err
	}
	go e.watch(spec.Oneshot)
	if spec.Oneshot {
		return e, nil
	}
	if err := e.waitReady(ctx); err != nil {
		return nil, errors.Join(err, e.Close())
	}
	return e, nil
}

func (l *Launcher) identity() (name string, cid uint32, err error) {
	n, err := rand.Int(rand.Reader, big.NewInt(lastCID-firstCID))
	if err != nil {
		return "", 0, err
	}
	cid = firstCID + uint32(n.Uint64())
	return l.cfg.Name + "-" + strconv.FormatUint(uint64(cid), 36), cid, nil
}

// Dial implements launcher.Enclave.
func (e *enclave) Dial(ctx context.Context, port uint32) (net.Conn, error) {
	return e.net.Dial(ctx, port)
}
