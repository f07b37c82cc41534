package boot

import (
	"context"
	"errors"
	"fmt"
	"log/slog"

	"golang.org/x/sys/unix"

	"github.com/cape-functions/cape/core/wire"
	"github.com/cape-functions/cape/enclave/internal/boot/event"
	"github.com/cape-functions/cape/enclave/internal/keyring"
	"github.com/cape-functions/cape/enclave/internal/nsm"
)

// runtime is a runtime whose trust is measured.
type runtime struct {
	parts  Parts
	log    *slog.Logger
	device *nsm.Device
	boot   *wire.Boot
	cfg    *wire.Config
	ends   Endpoints
	clock  *clock
}

// stage tells the log how far it came; the error itself may hold what the host shall not read.
type stage struct {
	name string
	err  error
}

func (s *stage) Error() string { return s.name + ": " + s.err.Error() }
func (s *stage) Unwrap() error { return s.err }

func at(name string, err error) error {
	if err == nil {
		return nil
	}
	return &stage{name, err}
}

// Run boots, serves until ctx ends, and cleans up. It returns nil when it was told to end or,
// in wire.ModeKMSInit, when the birth document was delivered.
func Run(ctx context.Context, parts Parts) error {
	log := event.New(parts.Log)
	log.Info(event.Starting)
	err := noCore()
	if err == nil {
		err = run(ctx, parts, log)
	}
	name := "done"
	var s *stage
	if errors.As(err, &s) {
		name = s.name
	}
	log.Info(event.Stopped, event.Stage, name)
	return err
}

// noCore forbids core files: they would hold every key on a disk of the host's.
func noCore() error {
	return at("limits", unix.Setrlimit(unix.RLIMIT_CORE, &unix.Rlimit{}))
}

func run(ctx context.Context, parts Parts, log *slog.Logger) error {
	transport, err := parts.NSM(ctx, parts.Network)
	if err != nil {
		return at("nsm", err)
	}
	r := &runtime{parts: parts, log: log, device: nsm.New(transport)}
	defer r.device.Close()
	r.clock = &clock{read: r.device.Time, set: parts.SetClock, second: parts.SecondClock, log: log}
	if err := r.clock.sync(); err != nil {
		return at("clock", err)
	}
	if r.boot, r.cfg, err = fetch(ctx, parts.Network); err != nil {
		return at("boot", err)
	}
	if err := measure(r.device, r.cfg.Trust); err != nil {
		return at("measure", err)
	}
	log.Info(event.Measured)
	if r.ends, err = parts.Endpoints(r.boot.Dev); err != nil {
		return at("endpoints", err)
	}
	if r.boot.Mode == wire.ModeKMSInit {
		return at("kms-init", r.giveBirth(ctx))
	}
	return r.serve(ctx)
}

func (r *runtime) keyConfig() keyring.Config {
	return keyring.Config{
		HTTP:        keyring.NewHTTPClient(router(r.parts.Network, r.boot.Routes), r.ends.AWS),
		KMSEndpoint: r.ends.KMS,
		STSEndpoint: r.ends.STS,
		Credentials: credentials(r.parts.Network),
		KeyARN:      r.cfg.KMS,
		Role:        r.cfg.Trust.Role,
		NSM:         r.device,
	}
}

// giveBirth creates the KEK and hands over its birth document.
func (r *runtime) giveBirth(ctx context.Context) error {
	cfg := r.keyConfig()
	if cfg.Region = regionOf(r.boot.Routes); cfg.Region == "" {
		cfg.Region = r.ends.Region
	}
	if cfg.Region == "" {
		return fmt.Errorf("creating key: %w: the routes name no single KMS endpoint", ErrHost)
	}
	birth, err := keyring.Create(ctx, cfg, *r.boot.Init)
	if err != nil {
		return err
	}
	if err := deliver(ctx, r.parts.Network, birth); err != nil {
		return err
	}
	r.log.Info(event.BirthDelivered)
	return nil
}
